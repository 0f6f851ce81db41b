"""The trainer's settings."""

from dataclasses import dataclass
from pathlib import Path

from chassis.config import ServiceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig(ServiceConfig):
    """The trainer's settings: those of every service, and these."""

    service: str = "trainer"
    etcd_endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    artifacts: str
    """URL of the artifact store, for example `file:///var/lib/lepton/artifacts`."""
    journals: Path
    """Folder of the jobs' journals: what ranks printed and measured."""
    largest_artifact_bytes: int = 4 * 1024**3
    """The most that one upload may bring."""
