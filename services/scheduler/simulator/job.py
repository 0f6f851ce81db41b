"""A job of the simulated world: when it comes, what it asks the scheduler for, and what it will really do."""

from dataclasses import dataclass, field
from typing import Final

from services.scheduler.simulator.scaling import Scaling
from services.scheduler.snapshot import Workload

WHOLE: Final = 1000  # thousandths of a device


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The truth about one workload; the planner is shown `workload` alone."""

    workload: Workload
    at: float  # seconds of simulated time
    work_s: float  # how long it runs with `reference` slices, undisturbed
    scaling: Scaling = field(default_factory=Scaling)

    @property
    def name(self) -> str:
        """The workload's name."""
        return self.workload.name

    @property
    def project(self) -> str:
        """The project that it belongs to: `projects/{project}`."""
        return project_of(self.workload.name)

    @property
    def reference(self) -> int:
        """The number of slices with which it takes `work_s`: the most that it asks for."""
        return sum(group.max_count for group in self.workload.groups)

    @property
    def device_milli(self) -> int:
        """What it takes of accelerators with all its slices."""
        return sum(group.max_count * group.demand.device_milli for group in self.workload.groups)

    def rate(self, slices: int) -> float:
        """How much work a second does with so many slices up, as a part of what the reference does."""
        return self.scaling.speed(slices) / self.scaling.speed(self.reference) if slices else 0.0


def project_of(workload: str) -> str:
    """`projects/acme` of `projects/acme/workloads/job`; a plain name is its own project."""
    return workload.partition("/workloads/")[0]
