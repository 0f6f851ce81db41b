"""What every service stands on: lifecycle, server, middleware, peers, telemetry and state; it knows no service."""

import os
from typing import Final

# grpc 1.81's EventEngine listener costs a server an eighth of each call's CPU (bench/rpc.py) and, with 10,000 quiet
# streams, three times the CPU (bench/fanin.py). Remove once the benches show no difference.
GRPC_EXPERIMENTS: Final = "-event_engine_listener"
# Read when grpc is first imported: a service imports chassis before anything else that imports grpc.
os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
