"""What the planner looks at: frozen values for nodes, workloads and assignments, and the snapshot that holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from services.scheduler.failure_values import NO_FAILURES, Failures, RestartRule, SliceFailure
from services.scheduler.queue_values import Queue


class Kind(IntEnum):
    """What a workload's slices do; the numbers are the proto's."""

    TRAINING = 1
    SERVING = 2
    BATCH = 3


class State(IntEnum):
    """Where a workload stands; the numbers are the proto's."""

    PENDING = 1
    ASSIGNED = 2
    RUNNING = 3
    CANCELLING = 4
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7


class Reason(IntEnum):
    """Why a workload has no place, or not all of it; the numbers are the proto's."""

    NONE = 0
    PENDING_EVALUATION = 1
    NO_MATCHING_POOL = 2
    WAITING_FOR_CAPACITY = 3
    FRAGMENTED = 4
    WAITING_FOR_FENCE = 5
    BACKING_OFF = 6
    EXCEEDS_MAX_QUOTA = 7
    WAITING_FOR_QUOTA = 8
    TOPOLOGY_PLACEMENT_FAILED = 9
    WAITING_FOR_PREEMPTED = 10
    ON_HOLD = 11
    WAITING_FOR_ADMISSION_CHECK = 12
    BEHIND_RESERVATION = 13
    WAITING_FOR_FLOATING_RESOURCE = 14
    ADMISSION_REJECTED = 15


class Effect(IntEnum):
    """What a taint does; the numbers are the proto's."""

    NO_SCHEDULE = 1
    PREFER_NO_SCHEDULE = 2
    NO_EXECUTE = 3


class CheckState(IntEnum):
    """What an admission check says; the numbers are the proto's."""

    UNKNOWN = 0
    READY = 1
    RETRY = 2
    REJECTED = 3


class SliceState(IntEnum):
    """Where a slice stands; the numbers are the proto's."""

    ASSIGNED = 1
    STARTING = 2
    RUNNING = 3
    READY = 4
    SUCCEEDED = 5
    FAILED = 6
    STOPPED = 7
    LOST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one slice takes of a node."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    storage_bytes: int = 0
    device_milli: int = 0  # below 1000: a share of one device; else whole devices
    device_models: frozenset[str] = frozenset()  # empty = any
    network_mbps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A mark on a node that keeps work away."""

    key: str
    value: str = ""
    effect: Effect = Effect.NO_SCHEDULE


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """A taint that a workload tolerates; an empty key is every taint, an empty value any value."""

    key: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """How near to each other slices must be: within one value of a node label (`host`: one node)."""

    level: str
    is_required: bool = True
    slice_size: int = 0  # the gang may be cut into parts of so many; 0 = all of it together


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """An admission check, and what it says."""

    name: str
    state: CheckState = CheckState.UNKNOWN
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator."""

    index: int
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine whose session lives."""

    name: str
    pool: str
    session: str
    cpu_milli: int = 0
    memory_bytes: int = 0
    storage_bytes: int = 0
    devices: tuple[Device, ...] = ()
    is_schedulable: bool = True
    network_mbps: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Slices that are alike, as the workload wants them now."""

    name: str
    min_count: int
    max_count: int
    demand: Demand
    program: bytes  # digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One member of a gang, on its node."""

    index: int
    group: str
    node: str
    devices: tuple[int, ...] = ()
    state: SliceState = SliceState.ASSIGNED
    message: str = ""
    exit_code: int = 0
    endpoints: tuple[tuple[str, str], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    failure: SliceFailure | None = None
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Returned:
    """A task that has had a place and has not ended for good; of those that run, only one that has failed before."""

    position: int
    failures: int
    not_before: float  # monotonic: the end of its backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArray:
    """How the tasks of an array stand. They are placed in their order, and those that come back go first."""

    count: int
    placed: int = 0  # so many have had a place, counted from the first
    returned: tuple[Returned, ...] = ()  # by position
    succeeded: int = 0
    failed: int = 0  # for good

    @property
    def left(self) -> int:
        """How many have not ended for good."""
        return self.count - self.succeeded - self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is wanted, and what was last said about it."""

    name: str
    kind: Kind
    groups: tuple[Group, ...]
    pools: tuple[str, ...] = ()  # most preferred first; empty = any
    priority: int = 0
    submitted: int = 0  # nanoseconds of the wall clock
    max_restarts: int = 0
    state: State = State.PENDING
    reason: Reason = Reason.NONE
    message: str = ""
    generation: int = 0
    restarts: int = 0
    slices: tuple[Slice, ...] = ()
    not_before: float = 0.0  # monotonic: the end of its backoff
    queue: str = ""  # empty = that of its project, else the default
    expected_duration_s: float = 0.0  # 0 = not known
    is_preemptible: bool = True
    selector: tuple[tuple[str, str], ...] = ()  # labels that its nodes must have, sorted
    tolerations: tuple[Toleration, ...] = ()
    topology: Topology | None = None
    is_spread: bool = False
    floating: tuple[tuple[str, int], ...] = ()  # floating resources that it holds while it is admitted, sorted
    is_held: bool = False
    checks: tuple[Check, ...] = ()
    preemptions: int = 0
    quota_reserved_at: float | None = None  # monotonic, as all times below
    assigned_at: float | None = None
    checkpoint_at: float | None = None
    waiting_since: float = 0.0
    throughput: tuple[tuple[int, float], ...] = ()  # slices -> samples per second, measured, sorted
    granted: tuple[tuple[str, int], ...] = ()  # group -> slices that it is held to after it gave some up, sorted
    rules: tuple[RestartRule, ...] = ()
    failures: Failures = NO_FAILURES
    array: TaskArray | None = (
        None  # its slices are tasks: of its one group at least one and at most `max_count` at once
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What the slices of a group were given when they were placed."""

    demand: Demand
    program: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One generation of a workload: where its slices run, with their reported states."""

    workload: str
    generation: int
    pool: str
    slices: tuple[Slice, ...]
    sessions: Mapping[str, str]
    groups: Mapping[str, Ran]
    kept: frozenset[int] = frozenset()  # indices that go on from the generation before
    revoked: str = ""  # why it is being stopped; empty = it is wanted
    revision: int = 0  # of the document; told for arrays, whose generations grow and shrink in place


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Places held for one workload until it takes them or the time is over: what is freed for it stays its own."""

    workload: str
    pool: str
    slices: tuple[Slice, ...]
    demands: Mapping[str, Demand]  # by group
    victims: tuple[tuple[str, int], ...] = ()  # workload, generation: what is being stopped for it
    expires_at: float = 0.0  # monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The fleet at one moment. What is free is derived from it, never stored."""

    pools: frozenset[str] = frozenset()
    nodes: Mapping[str, Node] = field(default_factory=dict)
    workloads: Mapping[str, Workload] = field(default_factory=dict)  # those that have not ended
    assignments: Mapping[str, tuple[Assignment, ...]] = field(default_factory=dict)  # by workload, oldest first
    gone: Mapping[str, float] = field(default_factory=dict)  # node -> monotonic time at which it was found missing
    fence_s: float = 10.0  # a node that has gone may still run its slices for so long
    settled_s: float = 300.0  # no gang is resized sooner after it was placed
    cooled_s: float = 60.0  # and independent slices come back no sooner after some were taken away
    queues: Mapping[str, Queue] = field(default_factory=dict)
    floating: Mapping[str, int] = field(default_factory=dict)  # capacity by name
    reservations: Mapping[str, Reservation] = field(default_factory=dict)  # by workload
    usage: Mapping[str, float] = field(default_factory=dict)  # project -> decayed use, in dominant-share seconds
