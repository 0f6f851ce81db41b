"""Which variant is proposed: the best for the target among those that keep the rule; pure.

The rule is a hard constraint. Time is compared as a ratio to the original that was measured in the same process, in
turns with the variant, so that two variants measured on different machines, or at busy times, can be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.inference.compress.figures import Figures

_ALIKE: Final = 0.03
"""Times within three parts of a hundred count as equal: then the smaller one is the better one."""


class Target(StrEnum):
    """What is wanted most."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    SIZE = "size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What no proposal may break; 0 bytes and a ratio of 0 mean any size."""

    max_accuracy_drop: float = 0.005
    max_bytes: int = 0
    max_size_ratio: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A variant that was measured, with the original as it was measured beside it."""

    name: str
    figures: Figures
    original: Figures

    @property
    def size_ratio(self) -> float:
        """Bytes as a part of the original's."""
        return self.figures.bytes / max(self.original.bytes, 1)

    @property
    def latency_ratio(self) -> float:
        """Median time for one row as a part of the original's."""
        return self.figures.latency_p50_us / max(self.original.latency_p50_us, 1e-9)

    @property
    def throughput_ratio(self) -> float:
        """Rows in a second, in terms of the original's."""
        return self.figures.throughput / max(self.original.throughput, 1e-9)

    def cost(self, target: Target) -> float:
        """What the target wants small; 1 is the original."""
        if target is Target.SIZE:
            return self.size_ratio
        return self.latency_ratio if target is Target.LATENCY else 1 / max(self.throughput_ratio, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The verdict: the name of the best variant, or none; why; who was refused; who is not outdone."""

    name: str
    reason: str
    refused: Mapping[str, str]
    pareto: frozenset[str]


def propose(candidates: Sequence[Candidate], rule: Rule, target: Target) -> Proposal:
    """The best variant within the rule; without one the reason names the constraint in the way and the nearest."""
    refused = {each.name: problem for each in candidates if (problem := broken(each, rule))}
    accurate = [each for each in candidates if _keeps_accuracy(each, rule)]
    front = frozenset(each.name for each in accurate if not any(_outdoes(other, each) for other in accurate))
    within = [each for each in candidates if each.name not in refused]
    if not within:
        return Proposal(name="", reason=_infeasible(candidates, rule), refused=refused, pareto=front)
    best = _best(within, target)
    if best.cost(target) >= 1:
        reason = (
            f"no variant that keeps the rule has a better {target} than the original; the nearest is {_words(best)}"
        )
        return Proposal(name="", reason=reason, refused=refused, pareto=front)
    reason = f"{best.name} has the best {target} of {len(within)} that keep the rule: {_words(best)}"
    return Proposal(name=best.name, reason=reason, refused=refused, pareto=front)


def broken(candidate: Candidate, rule: Rule) -> str:
    """Which parts of the rule a variant breaks, with its numbers; empty when it keeps the rule."""
    found, figures = [], candidate.figures
    if not _keeps_accuracy(candidate, rule):
        found.append(
            f"{figures.measure} falls by {100 * figures.accuracy_drop:.2f} %, "
            f"{100 * rule.max_accuracy_drop:g} % are allowed"
        )
    if figures.bytes > _most_bytes(candidate, rule):
        found.append(f"{figures.bytes} bytes, {_most_bytes(candidate, rule):.0f} are allowed")
    return "; ".join(found)


def _keeps_accuracy(candidate: Candidate, rule: Rule) -> bool:
    # Drops are quotients of whole numbers: what equals the limit on paper must not fail by rounding. NaN keeps none.
    return candidate.figures.accuracy_drop <= rule.max_accuracy_drop + 1e-9


def _most_bytes(candidate: Candidate, rule: Rule) -> float:
    limits = [float(rule.max_bytes)] if rule.max_bytes else []
    if rule.max_size_ratio:
        limits.append(rule.max_size_ratio * candidate.original.bytes)
    return min(limits, default=float("inf"))


def _best(within: Sequence[Candidate], target: Target) -> Candidate:
    least = min(each.cost(target) for each in within)
    alike = [each for each in within if each.cost(target) <= least * (1 + _ALIKE)]
    if target is Target.SIZE:
        return min(alike, key=lambda each: (each.latency_ratio, each.size_ratio, each.name))
    return min(alike, key=lambda each: (each.figures.bytes, each.cost(target), each.name))


def _outdoes(one: Candidate, other: Candidate) -> bool:
    ones = (one.size_ratio, one.latency_ratio, -one.throughput_ratio)
    others = (other.size_ratio, other.latency_ratio, -other.throughput_ratio)
    return ones != others and all(mine <= theirs for mine, theirs in zip(ones, others, strict=True))


def _infeasible(candidates: Sequence[Candidate], rule: Rule) -> str:
    if not candidates:
        return "no variant could be measured"
    accurate = [each for each in candidates if _keeps_accuracy(each, rule)]
    if not accurate:
        nearest = min(candidates, key=lambda each: each.figures.accuracy_drop)
        return (
            f"no variant keeps the accuracy: {100 * rule.max_accuracy_drop:g} % may be lost, and {nearest.name}, the "
            f"nearest, loses {100 * nearest.figures.accuracy_drop:.2f} %"
        )
    smallest = min(accurate, key=lambda each: each.figures.bytes)
    return (
        f"no variant that keeps the accuracy is small enough: {_most_bytes(smallest, rule):.0f} bytes are allowed, and "
        f"{smallest.name}, the smallest, has {smallest.figures.bytes}"
    )


def _words(each: Candidate) -> str:
    return (
        f"{100 * each.size_ratio:.0f} % of the size, {1 / max(each.latency_ratio, 1e-9):.2f} times as fast, "
        f"{each.throughput_ratio:.2f} times the throughput, {each.figures.measure} falls by "
        f"{100 * each.figures.accuracy_drop:.2f} %"
    )
