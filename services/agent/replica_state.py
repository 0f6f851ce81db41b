"""What a serving replica says of itself."""

from dataclasses import dataclass, field
from enum import StrEnum


class ReplicaFailed(Exception):
    """The replica cannot be kept alive here; the message is the last failure."""


class ReplicaState(StrEnum):
    """What a replica is doing."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEvent:
    """A change of state; READY brings `endpoints` (`grpc`, `metrics`) and the models' `memory_bytes`.

    STARTING again and FAILED bring `detail`. Every READY has other endpoints than the one before; one that follows
    another without a STARTING in between is a successor's, whose predecessor still answers for a while.
    """

    state: ReplicaState
    endpoints: dict[str, str] = field(default_factory=dict)
    detail: str = ""
    restarts: int = 0
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """By model: what its loading and its golden requests added to the server's memory."""
