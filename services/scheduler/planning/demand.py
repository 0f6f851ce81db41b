"""What an allocation is made of: sources that have, demands that want, and grants between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Machines that are alike."""

    name: str
    nodes: int
    capacity: Mapping[str, float]  # of each machine, by resource
    price: Mapping[str, float] = field(default_factory=dict)  # of a unit; absent = 1
    kind: str = ""  # the class of its pool

    def total(self, resource: str) -> float:
        """What all its machines have together."""
        return self.nodes * self.capacity.get(resource, 0.0)

    def price_of(self, resource: str) -> float:
        """The price of a unit."""
        return self.price.get(resource, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Amounts that are wanted together."""

    name: str
    amounts: Mapping[str, float]  # above 0
    kinds: frozenset[str] = frozenset()  # the classes that will do; empty = any

    def allows(self, source: Source) -> bool:
        """Whether the source is of a class that will do."""
        return not self.kinds or source.kind in self.kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one demand gets of one source."""

    demand: str
    source: str
    amounts: Mapping[str, float]
    per_node: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """An answer: the cheapest plan, or the nearest one with the reasons why there is none."""

    grants: tuple[Grant, ...]
    cost: float
    violated: tuple[str, ...] = ()  # empty = every demand is met

    @property
    def is_feasible(self) -> bool:
        """Whether every demand is met."""
        return not self.violated
