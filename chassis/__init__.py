"""What every service stands on: lifecycle, server, middleware, peers, telemetry and state; it knows no service."""
