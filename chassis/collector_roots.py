"""Which authorities the trace collector's certificate may be of: a file that follows those of the mesh."""

from pathlib import Path

from chassis.config import IdentitySettings, Telemetry
from chassis.identity import Identity

_NAME = "collector-roots.pem"


def collector_roots(telemetry: Telemetry, identity: IdentitySettings) -> Path | None:
    """The PEM file that a member trusts for its spans; None where they do not travel over TLS."""
    if not telemetry.otlp_endpoint.startswith("https://"):
        return None
    return Path(telemetry.otlp_certificate or Path(identity.state_dir) / _NAME)


def keep_roots(path: Path, identity: Identity, *, mode: int = 0o600) -> None:
    """Writes the authorities that the mesh trusts into a file, now and whenever they change; its folder must exist."""

    def write() -> None:
        aside = path.with_name(f".{path.name}.new")
        aside.write_bytes(identity.credentials.bundle_pem)
        aside.chmod(mode)
        aside.rename(path)

    write()
    identity.on_change(write)
