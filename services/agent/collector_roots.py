"""The authorities by which what runs here knows the trace collector: a file that jobs and Triton can read."""

from pathlib import Path

from chassis.collector_roots import keep_roots
from chassis.identity import Identity
from services.agent.config import AgentConfig

_MODE = 0o644


def node_roots(config: AgentConfig, identity: Identity) -> Path | None:
    """The file, which follows the mesh's authorities; None where no spans travel over TLS from here."""
    if not any(url.startswith("https://") for url in (config.telemetry.otlp_endpoint, config.collector)):
        return None
    folder = config.state_dir.absolute() / "collector"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # users of jobs have it shown, and nothing else lies in it
    path = folder / "roots.pem"
    if config.telemetry.otlp_certificate:
        path.write_bytes(Path(config.telemetry.otlp_certificate).read_bytes())
        path.chmod(_MODE)
    else:
        keep_roots(path, identity, mode=_MODE)
    return path
