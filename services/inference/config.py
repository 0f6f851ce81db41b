"""The inference service's settings."""

from dataclasses import dataclass, field
from pathlib import Path

from chassis.config import ConfigError, ServiceConfig
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
    access_log_bytes: int = 256 << 20
    """A file of the access log that is larger is set aside, as `access.log.1`; a call takes some 400 bytes of it."""
    access_log_files: int = 4
    """How many earlier files are kept; the oldest is overwritten."""

    def __post_init__(self) -> None:
        if self.access_log_bytes < 1 or self.access_log_files < 1:
            raise ConfigError("gateway.access_log_bytes and gateway.access_log_files must be 1 at least")


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
