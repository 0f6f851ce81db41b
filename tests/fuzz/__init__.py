"""Random requests for every method, and random bytes for every parser: no crash, no UNKNOWN, no internal text."""
