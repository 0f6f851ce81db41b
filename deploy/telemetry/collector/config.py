"""The collector's settings. A minimal file:

database = "/var/lib/lepton/traces.sqlite"
grpc = "127.0.0.1:4317"                    # where OTLP/gRPC is received
http = "127.0.0.1:4318"                    # where OTLP/HTTP and queries are received

[peers]
auth = "127.0.0.1:7002"                    # its mesh port: whose tokens are good, and what their holders may see

[identity]                                 # as for every service; the join token is for spiffe service/collector
state_dir = "/var/lib/lepton/collector/identity"
trust_bundle = "/etc/lepton/ca.pem"
auth_address = "127.0.0.1:7001"
join_token_file = "/etc/lepton/collector.token"
"""

from dataclasses import dataclass
from pathlib import Path

from chassis.config import ServiceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorConfig(ServiceConfig):
    """What the collector needs to know; it serves on `grpc` and `http`, and on nothing of `[listen]`."""

    service: str = "collector"
    database: Path
    grpc: str
    http: str
