"""Telemetry of a deployment: the one-machine stack's collector, and what production collectors are configured with."""
