"""The audit log as data: records, the tree that seals them, and the check that finds what was tampered with; pure."""
