"""Owns one machine: its registration, telemetry and running slices; never what is placed on it."""
