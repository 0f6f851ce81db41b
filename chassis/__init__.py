"""What every service stands on: lifecycle, server, middleware, peers, telemetry and state; it knows no service."""

import os

# grpc 1.81's EventEngine listener costs a server an eighth of the CPU of each call (bench/rpc.py) and, with 10,000 quiet
# streams, three times the CPU (bench/fanin.py). Read when grpc is first used, so set before anything imports it.
# Remove once the benches show no difference.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
