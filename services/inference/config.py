"""The inference service's settings."""

from dataclasses import dataclass, field
from pathlib import Path

from chassis.config import ServiceConfig
from services.inference.autoscaling.settings import AutoscalingSettings
from services.inference.shared.settings import SharedSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """The Envoy that this service configures."""

    directory: Path
    """Holds the files that Envoy reads; shared with it, writable by this service alone."""
    address: str
    """`host:port` where the gateway listens."""
    advertised: str = ""
    """`host:port` that clients are told; empty = `address`."""
    admin_port: int = 0
    """Envoy's own administration, on loopback."""
    join_token_file: str = ""
    """Admits the gateway's certificate to the mesh, the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig(ServiceConfig):
    """The inference service's settings: those of every service, and these."""

    service: str = "inference"
    etcd_endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    etcd_ca: str = ""
    """PEM files for TLS to etcd: its CA, and our certificate with its key; empty = plaintext, for loopback only."""
    etcd_cert: str = ""
    etcd_key: str = ""
    artifacts: str
    """URL of the artifact store, for example `file:///var/lib/lepton/artifacts`."""
    gateway: GatewaySettings
    autoscaling: AutoscalingSettings = field(default_factory=AutoscalingSettings)
    shared: SharedSettings = field(default_factory=SharedSettings)
    """The servers of deployments with `serving.shared`."""
    export_pools: tuple[str, ...] = field(default_factory=tuple)
    """Pools that conversions run in, as far as compliance policies let them, most preferred first; empty = any."""
    compliance_every_s: float = 30.0
    """How often versions and deployments are looked at by the compliance policies; a change of those at once."""
