"""What is asked of the fleet, and what it answers."""

from dataclasses import dataclass

from services.scheduler.snapshot import Group, Toleration, Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """How many more slices of a group are wanted: at least so many, at most so many."""

    group: Group
    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Places wanted together in one pool: everyone's least or nothing, then as much of the rest as fits."""

    pool: str
    wants: tuple[Want, ...]
    selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    topology: Topology | None = None
    is_spread: bool = False
    near: tuple[str, ...] = ()  # nodes of the slices that stay


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A place for one slice."""

    group: str
    node: str
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """What a pool has too little of, in sum."""

    resource: str  # a field of Demand
    needed: int
    free: int
