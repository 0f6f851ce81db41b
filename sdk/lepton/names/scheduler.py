"""Names of the scheduler's resources."""

from dataclasses import dataclass

from lepton.names.auth import ProjectName
from lepton.names.resource import ResourceName


@dataclass(frozen=True, slots=True)
class PoolName(ResourceName):
    """A pool of nodes."""

    pattern = "pools/{pool}"
    pool: str


@dataclass(frozen=True, slots=True)
class NodeName(ResourceName):
    """A machine in a pool."""

    pattern = "pools/{pool}/nodes/{node}"
    pool: str
    node: str

    @property
    def parent(self) -> PoolName:
        """The pool it belongs to."""
        return PoolName(self.pool)


@dataclass(frozen=True, slots=True)
class QueueName(ResourceName):
    """A line of workloads with a share of the fleet."""

    pattern = "queues/{queue}"
    queue: str


@dataclass(frozen=True, slots=True)
class FloatingResourceName(ResourceName):
    """Something that workloads use and that belongs to no node."""

    pattern = "floatingResources/{floating_resource}"
    floating_resource: str


@dataclass(frozen=True, slots=True)
class WorkloadName(ResourceName):
    """What the scheduler places: gangs of slices."""

    pattern = "projects/{project}/workloads/{workload}"
    project: str
    workload: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)
