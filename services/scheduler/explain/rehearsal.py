"""Plays the planner in memory until it comes to rest: what it decides is done at once, what it stops has stopped."""

from dataclasses import dataclass, fields, replace
from typing import Final

from services.scheduler.lifecycle import ENDED, FINAL
from services.scheduler.planner import Decision, Plan, plan
from services.scheduler.planner.budgets import pause_s
from services.scheduler.snapshot import Assignment, CheckState, Ran, SliceState, Snapshot, State, Workload

MAX_ROUNDS: Final = 16
PLACED: Final = frozenset({State.ASSIGNED, State.RUNNING})


class OutOfBudgetError(Exception):
    """The question would take longer than it is worth."""


class Budget:
    """How much planning one question may cause, in workloads and nodes looked at."""

    def __init__(self, looks: int) -> None:
        self._left = looks

    def spend(self, snapshot: Snapshot) -> None:
        """One run of the planner on this snapshot. Raises OutOfBudgetError."""
        self._left -= len(snapshot.workloads) + len(snapshot.nodes) + 1
        if self._left < 0:
            raise OutOfBudgetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The fleet after the planner has come to rest."""

    snapshot: Snapshot
    ended: frozenset[str] = frozenset()  # workloads that came to their end on the way
    preempted: frozenset[str] = frozenset()  # workloads that were stopped for others
    wake_at: float | None = None  # when the planner would look again by itself

    def workload(self, name: str) -> Workload | None:
        """A workload, if it has not ended."""
        return self.snapshot.workloads.get(name)


def rehearse(snapshot: Snapshot, now: float, budget: Budget) -> Rehearsal:
    """Plan and carry out, until nothing changes or the rounds are over; time stands still meanwhile."""
    ended: set[str] = set()
    first = snapshot
    wake_at: float | None = None
    for _ in range(MAX_ROUNDS):
        budget.spend(snapshot)
        planned = plan(snapshot, now)
        wake_at = planned.wake_at
        if not planned.decisions:
            break
        ended |= {each.workload for each in planned.decisions if each.state in ENDED}
        snapshot = carry_out(snapshot, planned, now)
    preempted = frozenset(
        name
        for name, each in snapshot.workloads.items()
        if name in first.workloads and each.preemptions > first.workloads[name].preemptions
    )
    return Rehearsal(snapshot=snapshot, ended=frozenset(ended), preempted=preempted, wake_at=wake_at)


def carry_out(snapshot: Snapshot, planned: Plan, now: float) -> Snapshot:
    """The snapshot after a plan; the original is left as it is."""
    workloads = dict(snapshot.workloads)
    assignments = dict(snapshot.assignments)
    reservations = {name: each for name, each in snapshot.reservations.items() if name not in planned.dropped}
    for decision in planned.decisions:
        name = decision.workload
        workload = _after(workloads[name], decision, now)
        generations = _generations(assignments.pop(name, ()), decision, workload)
        if decision.drops_reservation or workload.state in ENDED:
            reservations.pop(name, None)
        if workload.state in ENDED:
            del workloads[name]
            continue
        workloads[name] = workload
        if generations:
            assignments[name] = generations
        if decision.reservation is not None:
            reservations[name] = decision.reservation
    return replace(snapshot, workloads=workloads, assignments=assignments, reservations=reservations)


_TOLD: Final = tuple(
    sorted({each.name for each in fields(Decision)} & {each.name for each in fields(Workload)})
)  # what a decision says of a workload goes by the same name


def _after(workload: Workload, decision: Decision, now: float) -> Workload:
    told = {name: getattr(decision, name) for name in _TOLD}
    told["quota_reserved_at"] = (workload.quota_reserved_at or now) if decision.has_quota else None
    if decision.restarts > workload.restarts:
        told["not_before"] = now + pause_s(decision.failures, decision.restarts)
    if decision.placement is not None:
        told["assigned_at"] = now
    if decision.tasks is not None:
        told["array"] = decision.tasks.array
    if decision.state is State.PENDING and workload.state is not State.PENDING:
        told["waiting_since"] = now
    if decision.resets_checks:
        told["checks"] = tuple(replace(each, state=CheckState.UNKNOWN) for each in workload.checks)
    return replace(workload, **told)


def _generations(before: tuple[Assignment, ...], decision: Decision, workload: Workload) -> tuple[Assignment, ...]:
    revoked = {each.generation: each.reason for each in decision.revoke}
    after = [
        _stopped(each, revoked[each.generation]) if each.generation in revoked else each
        for each in before
        if each.generation not in decision.retire
    ]
    tasks = decision.tasks
    if tasks is not None and tasks.is_amended and tasks.base not in revoked and decision.placement is None:
        sessions = dict(tasks.sessions)
        after = [
            replace(each, slices=tasks.live, sessions=sessions) if each.generation == tasks.base else each
            for each in after
        ]
    if decision.placement is not None:
        placement = decision.placement
        after.append(
            Assignment(
                workload=decision.workload,
                generation=decision.generation,
                pool=placement.pool,
                slices=placement.slices,
                sessions=dict(placement.sessions),
                groups={each.name: Ran(demand=each.demand, program=each.program) for each in workload.groups},
                kept=placement.kept,
            )
        )
    return tuple(after)


def _stopped(assignment: Assignment, reason: str) -> Assignment:
    slices = tuple(
        each if each.state in FINAL else replace(each, state=SliceState.STOPPED) for each in assignment.slices
    )
    return replace(assignment, slices=slices, revoked=reason)
