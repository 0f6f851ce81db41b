"""Queues and what they may use, as the planner sees them."""

from dataclasses import dataclass
from enum import IntEnum


class Policy(IntEnum):
    """In what order a queue is looked at; the numbers are the proto's."""

    FAIR_SHARE = 1
    FIFO = 2
    SHORTEST_JOB_FIRST = 3
    WEIGHTED_DYNAMIC = 4


class Stop(IntEnum):
    """Whether a queue is open; the numbers are the proto's."""

    OPEN = 0
    HOLD = 1
    HOLD_AND_DRAIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much of one resource of one flavour (a pool; empty = all pools together) a queue may use."""

    resource: str  # a field of Demand
    nominal: int
    pool: str = ""
    borrowing_limit: int | None = None
    lending_limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A line of workloads with a share of the fleet."""

    name: str
    parent: str = ""
    weight: float = 1.0
    quotas: tuple[Quota, ...] = ()
    policy: Policy = Policy.FAIR_SHARE
    is_strict: bool = False
    stop: Stop = Stop.OPEN
    projects: tuple[str, ...] = ()
    project_limits: tuple[Quota, ...] = ()  # each single project's own: nominal is the most
    half_life_s: float = 7 * 86400.0
    min_runtime_s: float = 60.0
    aging_s: float = 86400.0
    has_preemption: bool = True  # its workloads may evict those of lower priority in it
