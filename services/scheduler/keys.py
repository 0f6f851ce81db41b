"""Where the scheduler keeps what in etcd."""

from typing import Final

from lepton.names import FloatingResourceName, NodeName, PoolName, ProjectName, QueueName, WorkloadName

ROOT: Final = "/lepton/scheduler/"
POOLS: Final = f"{ROOT}pools/"
NODES: Final = f"{ROOT}nodes/"
NODE_SETTINGS: Final = f"{ROOT}node_settings/"
WORKLOADS: Final = f"{ROOT}workloads/"
ASSIGNMENTS: Final = f"{ROOT}assignments/"
STATUSES: Final = f"{ROOT}statuses/"
QUEUES: Final = f"{ROOT}queues/"
FLOATING_RESOURCES: Final = f"{ROOT}floating_resources/"
RESERVATIONS: Final = f"{ROOT}reservations/"
USAGE: Final = f"{ROOT}usage/"
QUEUE_TREE: Final = f"{ROOT}queue_tree"
REPLICA_USE: Final = f"{ROOT}replica_use/"
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


def node_settings(name: NodeName) -> str:
    """What an operator has set on a node; it outlives the node's document."""
    return f"{NODE_SETTINGS}{name.pool}/{name.node}"


def node_settings_of(name: PoolName) -> str:
    """The prefix of the settings of a pool's nodes."""
    return f"{NODE_SETTINGS}{name.pool}/"


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


def task_states(name: WorkloadName, generation: int, node: NodeName) -> str:
    """How the tasks of an array stand on one node."""
    return f"{statuses(name, generation)}{node.pool}/{node.node}"


def queue(name: QueueName) -> str:
    """A queue's document."""
    return QUEUES + name.queue


def floating_resource(name: FloatingResourceName) -> str:
    """A floating resource's document."""
    return FLOATING_RESOURCES + name.floating_resource


def reservation(name: WorkloadName) -> str:
    """What is reserved for a workload."""
    return f"{RESERVATIONS}{name.project}/{name.workload}"


def usage(name: ProjectName) -> str:
    """What a project has used."""
    return USAGE + name.project
