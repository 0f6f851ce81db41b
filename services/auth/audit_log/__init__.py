"""The audit log behind the trail: what services hand over, sealing and retention, reading, and checking it."""
