"""Owns how a deployment goes from one revision to the next: pure decisions from wish, observation and time."""
