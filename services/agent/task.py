"""One task of an array on this node."""

from dataclasses import dataclass

from lepton.scheduler.v1 import workload_pb2
from services.agent.array_secrets import ArraySecrets

Slice = workload_pb2.Slice


@dataclass(slots=True, eq=False)
class Task:
    """One place of one task."""

    workload: str
    generation: int
    position: int
    serial: int
    id: str = ""  # of its process; empty until it is ordered
    devices: tuple[int, ...] = ()
    state: Slice.State.ValueType = Slice.STARTING
    exit_code: int = 0
    message: str = ""
    stopped: str = ""  # why it was told to stop
    is_unwanted: bool = False  # nobody wants to hear how it ends
    secrets: ArraySecrets | None = None  # once it has begun

    @property
    def is_over(self) -> bool:
        """Whether it runs no more."""
        return self.state in (Slice.SUCCEEDED, Slice.FAILED, Slice.STOPPED)
