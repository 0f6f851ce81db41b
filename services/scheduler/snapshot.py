"""What the planner looks at: frozen values for nodes, workloads and assignments, and the snapshot that holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The fleet at one moment. What is free is derived from it, never stored."""

    pools: frozenset[str] = frozenset()
    nodes: Mapping[str, Node] = field(default_factory=dict)
    workloads: Mapping[str, Workload] = field(default_factory=dict)  # those that have not ended
    assignments: Mapping[str, tuple[Assignment, ...]] = field(default_factory=dict)  # by workload, oldest first
    gone: Mapping[str, float] = field(default_factory=dict)  # node -> monotonic time at which it was found missing
    fence_s: float = 10.0  # a node that has gone may still run its slices for so long
