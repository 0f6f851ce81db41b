"""Why an allocation is infeasible: sets of demands whose sources together have too little of one resource.

For each resource alone, the program with the least that stays unmet is a transport problem. From a demand that is short
one goes to every source that it may use (all of them are full, else it would not be short), from there to every demand
that uses them, and so on. The demands so found want more than all the sources that any of them may use have: a proof
that can be checked with pencil and paper, and by Hall's theorem there is one whenever there is no plan.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.scheduler.planning.demand import Demand, Source
from services.scheduler.planning.program import Program

_TRACE: Final = 1e-7
_SHOWN: Final = 4  # names in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Demands that want more of a resource than all their sources have."""

    resource: str
    demands: tuple[Demand, ...]
    sources: tuple[Source, ...]

    @property
    def needed(self) -> float:
        """What they want."""
        return sum(each.amounts[self.resource] for each in self.demands)

    @property
    def available(self) -> float:
        """What there is for them."""
        return sum(each.total(self.resource) for each in self.sources)

    def __str__(self) -> str:
        kinds = sorted({kind for each in self.demands for kind in each.kinds})
        anywhere = any(not each.kinds for each in self.demands)
        of = "of any class" if anywhere else f"of class {' or '.join(kinds)}"
        verb = "needs" if len(self.demands) == 1 else "need"
        wish = f"{self.resource}: {_names(each.name for each in self.demands)} {verb} {amount(self.needed)} {of}"
        if not self.sources:
            return f"{wish}, but no source of such a class has any"
        have = "has" if len(self.sources) == 1 else "have"
        there = _names(f"{each.name} ({_machines(each, self.resource)})" for each in self.sources)
        short = amount(self.needed - self.available)
        return f"{wish}, but {there} {have} {amount(self.available)}: {short} short"


def shortages(demands: Sequence[Demand], sources: Sequence[Source]) -> list[Shortage]:
    """Every resource of which there is too little, and for whom; empty when each resource by itself suffices."""
    resources = sorted({resource for each in demands for resource in each.amounts})
    return [found for resource in resources for found in _of(resource, demands, sources)]


def amount(value: float) -> str:
    """A number as people write it."""
    return f"{value:.10g}"


def _of(resource: str, demands: Sequence[Demand], sources: Sequence[Source]) -> list[Shortage]:
    wanting = [
        replace(each, amounts={resource: each.amounts[resource]}) for each in demands if resource in each.amounts
    ]
    program = Program(wanting, sources, is_elastic=True)
    solution = program.solve()
    if solution is None:
        return []
    givers: dict[int, set[int]] = {d: set() for d in range(len(wanting))}
    takers: dict[int, set[int]] = {}
    for column, (d, s) in enumerate(program.whole):
        givers[d].add(s)
        if solution[column] > _TRACE:
            takers.setdefault(s, set()).add(d)
    groups: list[tuple[set[int], set[int]]] = []
    for d, short in enumerate(program.shortfall(solution)):
        if short <= _TRACE or any(d in found for found, _ in groups):
            continue
        reached, used = _reach(d, givers, takers)
        for group in [each for each in groups if each[1] & used]:
            groups.remove(group)
            reached, used = reached | group[0], used | group[1]
        groups.append((reached, used))
    return [
        Shortage(
            resource=resource,
            demands=tuple(wanting[d] for d in sorted(reached)),
            sources=tuple(sources[s] for s in sorted(used)),
        )
        for reached, used in groups
    ]


def _reach(start: int, givers: dict[int, set[int]], takers: dict[int, set[int]]) -> tuple[set[int], set[int]]:
    reached, used, waiting = {start}, set[int](), [start]
    while waiting:
        for s in givers[waiting.pop()] - used:
            used.add(s)
            more = takers.get(s, set()) - reached
            reached |= more
            waiting.extend(more)
    return reached, used


def _names(names: Iterable[str]) -> str:
    known = list(names)
    if len(known) > _SHOWN:
        return f"{', '.join(known[:_SHOWN])} and {len(known) - _SHOWN} more"
    return f"{', '.join(known[:-1])} and {known[-1]}" if len(known) > 1 else known[0]


def _machines(source: Source, resource: str) -> str:
    each = source.capacity.get(resource, 0.0)
    return f"{source.nodes} x {amount(each)}"
