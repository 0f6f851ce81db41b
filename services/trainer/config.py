"""The trainer's settings."""

from dataclasses import dataclass
from pathlib import Path

from chassis.config import ServiceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig(ServiceConfig):
    """The trainer's settings: those of every service, and these."""

    service: str = "trainer"
    etcd_endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    etcd_ca: str = ""
    """PEM files for TLS to etcd: its CA, and our certificate with its key; empty = plaintext, for loopback only."""
    etcd_cert: str = ""
    etcd_key: str = ""
    artifacts: str
    """URL of the artifact store, for example `file:///var/lib/lepton/artifacts`."""
    journals: Path
    """Folder of the jobs' journals: what ranks printed and measured."""
    largest_artifact_bytes: int = 4 * 1024**3
    """The most that one upload may bring."""
    most_project_artifact_bytes: int = 0
    """The most that the artifacts of a project may be together; checkpoints do not count. 0 = no limit."""
    most_transfers: int = 64
    """How many artifacts are moved at once; each takes 8 MiB of memory, or a temporary file. 0 = no limit."""
    largest_journal_bytes: int = 64 * 1024**2
    """The most that is kept of what one job's ranks print and measure; of more, the middle is dropped."""
    collect_every_s: float = 300.0
    """How often what dropped checkpoints have left is looked for and deleted."""
    rewrap_every_s: float = 300.0
    """How often artifacts that a former key of their project seals are looked for, and sealed by its newest."""
    collect_after_s: float = 3600.0
    """For how long a file that ranks have stored is kept in any case; longer than it takes to write a checkpoint."""
    compliance_every_s: float = 30.0
    """How often jobs, checkpoints and artifacts are looked at by the compliance policies; a change of those at once."""
