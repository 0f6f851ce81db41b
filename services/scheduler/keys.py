"""Where the scheduler keeps what in etcd."""

from typing import Final

from lepton.names import NodeName, PoolName, WorkloadName

ROOT: Final = "/lepton/scheduler/"
POOLS: Final = f"{ROOT}pools/"
NODES: Final = f"{ROOT}nodes/"
WORKLOADS: Final = f"{ROOT}workloads/"
ASSIGNMENTS: Final = f"{ROOT}assignments/"
STATUSES: Final = f"{ROOT}statuses/"
REQUESTS: Final = f"{ROOT}requests/"
LEADER: Final = f"{ROOT}leader"
PAGE_KEY: Final = f"{ROOT}page_key"


def pool(name: PoolName) -> str:
    """A pool's document."""
    return POOLS + name.pool


def node(name: NodeName) -> str:
    """A node's document, under a lease."""
    return f"{NODES}{name.pool}/{name.node}"


def nodes_of(name: PoolName) -> str:
    """The prefix of a pool's nodes."""
    return f"{NODES}{name.pool}/"


def workload(name: WorkloadName) -> str:
    """A workload's document."""
    return f"{WORKLOADS}{name.project}/{name.workload}"


def assignment(name: WorkloadName, generation: int) -> str:
    """The document of one generation."""
    return f"{ASSIGNMENTS}{name.project}/{name.workload}/{generation:08d}"


def statuses(name: WorkloadName, generation: int) -> str:
    """The prefix of the slice states of one generation."""
    return f"{STATUSES}{name.project}/{name.workload}/{generation:08d}/"


def status(name: WorkloadName, generation: int, index: int) -> str:
    """The state of one slice."""
    return f"{statuses(name, generation)}{index:05d}"
