"""Which pool a node belongs to that names none: the pools' membership rules, and the one that gets the node."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from lepton.scheduler.v1 import node_pb2, pool_pb2

_AMOUNTS: Final = ("cpu_milli", "memory_bytes", "storage_bytes", "network_mbps")
_WHOLE: Final = 1000  # thousandths of a device


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a node declares, as far as rules look at it."""

    labels: Mapping[str, str] = field(default_factory=dict)
    amounts: Mapping[str, int] = field(default_factory=dict)  # fields of Resources; absent = none
    devices: tuple[str, ...] = ()  # the model of each

    @classmethod
    def of(cls, node: node_pb2.Node) -> Self:
        """The candidate that a node is."""
        return cls(
            labels=dict(node.labels),
            amounts={name: getattr(node.capacity, name) for name in _AMOUNTS},
            devices=tuple(each.model for each in node.devices),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which nodes a pool takes."""

    pool: str
    labels: Mapping[str, str] = field(default_factory=dict)
    at_least: Mapping[str, int] = field(default_factory=dict)  # as above, with device_milli
    models: frozenset[str] = frozenset()  # only devices of these count; empty = any
    precedence: int = 0

    @classmethod
    def of(cls, pool: pool_pb2.Pool) -> Self | None:
        """The rule of a pool; one without a rule takes only nodes that name it."""
        if not pool.HasField("membership"):
            return None
        wanted = pool.membership.at_least
        return cls(
            pool=pool.name,
            labels=dict(pool.membership.match_labels),
            at_least={name: getattr(wanted, name) for name in (*_AMOUNTS, "device_milli") if getattr(wanted, name)},
            models=frozenset(wanted.device_models),
            precedence=pool.membership.precedence,
        )

    def refusals(self, node: Candidate) -> Iterator[str]:
        """In what respects the rule does not hold for a node, in words and numbers; none = it holds."""
        for key in sorted(self.labels):
            has = node.labels.get(key)
            if has != self.labels[key]:
                yield f"label {key} is {has if has is not None else 'absent'}, not {self.labels[key]}"
        for name in sorted(self.at_least):
            has_amount = self._amount(node, name)
            if has_amount < self.at_least[name]:
                yield f"{name} is {has_amount}, below {self.at_least[name]}"
        if self.models and "device_milli" not in self.at_least and not self._amount(node, "device_milli"):
            yield f"no device is of {', '.join(sorted(self.models))}"

    def _amount(self, node: Candidate, name: str) -> int:
        if name != "device_milli":
            return node.amounts.get(name, 0)
        return _WHOLE * sum(not self.models or model in self.models for model in node.devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The pool that a node is given, or why it is given none."""

    pool: str = ""
    refusals: tuple[str, ...] = ()  # of each pool with a rule, when none accepts the node


def assign(pools: Iterable[pool_pb2.Pool], node: Candidate) -> Placement:
    """The pool whose rule holds for a node; of several the one with the largest precedence, then the first by name."""
    rules = sorted(
        (rule for rule in map(Rule.of, pools) if rule is not None), key=lambda rule: (-rule.precedence, rule.pool)
    )
    refusals = list[str]()
    for rule in rules:
        refused = tuple(rule.refusals(node))
        if not refused:
            return Placement(pool=rule.pool)
        refusals.append(f"{rule.pool}: {'; '.join(refused)}")
    return Placement(refusals=tuple(refusals))
