"""Tests of training as a whole: exact under faults, alive under kills, elastic, and quick to start."""
