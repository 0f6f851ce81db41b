"""When a waiting workload may start: what runs is let end when it is expected to, and the planner is asked each time.

How long something runs is known from its `expected_duration_s`, stretched when it has fewer slices than it could have
and its throughput was measured at both sizes. Expectations err: the ratio of what workloads took to what was expected
of them is taken from those that have ended well; with fewer than 20 of them, half take no longer than expected and
nine in ten no longer than twice that. The median start lets everything run for its median, the p90 start lets
everything run for its p90: exact when one end decides, late rather than early when several do. What has outlived its
time is expected to go on for half as long again as it has run (p90: as long again).
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from services.scheduler.explain.rehearsal import Budget, OutOfBudgetError, rehearse
from services.scheduler.explain.trial import Trial
from services.scheduler.lifecycle import FINAL
from services.scheduler.snapshot import Assignment, SliceState, Snapshot, Workload

ENOUGH: Final = 20  # ratios from which quantiles are taken
MAX_EVENTS: Final = 400
_PRIOR: Final = (1.0, 2.0)
_OUTLIVED: Final = (1.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How much longer than expected workloads run: the median and the p90 of the ratio."""

    p50: float = _PRIOR[0]
    p90: float = _PRIOR[1]
    samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """When it may start, in seconds from now."""

    p50_s: float
    p90_s: float
    basis: str


def spread_of(ratios: Iterable[float]) -> Spread:
    """The spread of these ratios of real to expected durations."""
    ordered = sorted(ratios)
    if len(ordered) < ENOUGH:
        return Spread(samples=len(ordered))
    return Spread(p50=_quantile(ordered, 0.5), p90=_quantile(ordered, 0.9), samples=len(ordered))


def estimate(trial: Trial, spread: Spread, budget: Budget) -> Start | None:
    """When the workload may start; None when nothing is known about what it waits for."""
    try:
        p50 = _start(trial, spread.p50, _OUTLIVED[0], budget)
        p90 = _start(trial, spread.p90, _OUTLIVED[1], budget) if p50 is not None else None
    except OutOfBudgetError:
        return None
    if p50 is None or p90 is None:
        return None
    return Start(p50_s=p50, p90_s=max(p50, p90), basis=_basis(trial, spread))


def _start(trial: Trial, ratio: float, outlived: float, budget: Budget) -> float | None:
    """Seconds until it is placed when everything takes `ratio` times what is expected of it."""
    now, rehearsal = trial.now, trial.base
    known: set[tuple[str, int]] = set()
    ends: list[tuple[float, str, int]] = []
    for _ in range(MAX_EVENTS):
        if trial.is_placed(rehearsal):
            return now - trial.now
        for assignment in _running(rehearsal.snapshot):
            run = (assignment.workload, assignment.generation)
            at = None if run in known else _end(rehearsal.snapshot, assignment, now, ratio, outlived)
            known.add(run)
            if at is not None:
                heapq.heappush(ends, (at, *run))
        wake_at = rehearsal.wake_at
        if wake_at is not None and wake_at > now and (not ends or wake_at < ends[0][0]):
            now, snapshot = wake_at, rehearsal.snapshot
        elif ends:
            now, snapshot = max(now, ends[0][0]), rehearsal.snapshot
            while ends and ends[0][0] <= now:
                _, name, generation = heapq.heappop(ends)
                snapshot = _ended(snapshot, name, generation)
        else:
            return None
        rehearsal = rehearse(snapshot, now, budget)
    return None


def _running(snapshot: Snapshot) -> Iterable[Assignment]:
    return (each for generations in snapshot.assignments.values() for each in generations if not each.revoked)


def _end(snapshot: Snapshot, assignment: Assignment, now: float, ratio: float, outlived: float) -> float | None:
    """When a generation is expected to end, if anything is known of that."""
    workload = snapshot.workloads.get(assignment.workload)
    if workload is None or not workload.expected_duration_s or workload.assigned_at is None:
        return None
    ran = max(0.0, now - workload.assigned_at)
    takes = workload.expected_duration_s * ratio * _pace(workload, assignment)
    return now + (takes - ran if takes > ran else max(1.0, ran * (outlived - 1)))


def _pace(workload: Workload, assignment: Assignment) -> float:
    """How much longer it takes with the slices it has than with all it could have, where both were measured."""
    measured = dict(workload.throughput)
    has = measured.get(sum(each.state not in FINAL for each in assignment.slices))
    full = measured.get(sum(group.max_count for group in workload.groups))
    return max(1.0, full / has) if has and full else 1.0


def _ended(snapshot: Snapshot, name: str, generation: int) -> Snapshot:
    """The snapshot once every slice of a generation has succeeded."""
    generations = tuple(
        replace(each, slices=tuple(replace(one, state=SliceState.SUCCEEDED) for one in each.slices))
        if each.generation == generation
        else each
        for each in snapshot.assignments.get(name, ())
    )
    if not generations:
        return snapshot
    return replace(snapshot, assignments={**snapshot.assignments, name: generations})


def _basis(trial: Trial, spread: Spread) -> str:
    running = [each.workload for each in _running(trial.snapshot)]
    known = sum(
        trial.snapshot.workloads[name].expected_duration_s > 0 for name in running if name in trial.snapshot.workloads
    )
    source = (
        f"measured on {spread.samples} that have ended"
        if spread.samples >= ENOUGH
        else "assumed, as too few have ended"
    )
    return (
        f"{known} of {len(running)} running workloads say how long they run; they take {spread.p50:.2g} times "
        f"(p90: {spread.p90:.2g} times) as long as they say, {source}"
    )


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
