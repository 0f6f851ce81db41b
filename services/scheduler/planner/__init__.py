"""The planner: a pure function from a snapshot of the fleet to the decisions that should follow."""

from collections.abc import Sequence

from services.scheduler.lifecycle import ENDED, may_follow
from services.scheduler.planner.capacity import Capacity
from services.scheduler.planner.decision import Decision, Placement, Plan, Revocation
from services.scheduler.planner.need import Need
from services.scheduler.planner.packing import Spot, Want, pack
from services.scheduler.planner.reasons import allowed_pools, explain
from services.scheduler.planner.standing import stand
from services.scheduler.planner.verdict import GRACE_S, REPLACED, Verdict, judge
from services.scheduler.snapshot import Assignment, Reason, Slice, Snapshot, State, Workload

__all__ = ["Decision", "Placement", "Plan", "Revocation", "plan"]


def plan(snapshot: Snapshot, now: float) -> Plan:
    """Decide about every workload that has not ended, in the order of the queue. Equal snapshots give equal plans."""
    cycle = _Cycle(snapshot, now)
    queue = sorted(snapshot.workloads.values(), key=lambda each: (-each.priority, each.submitted, each.name))
    decisions = tuple(decision for each in queue if (decision := cycle.decide(each)) is not None)
    return Plan(decisions=decisions, wake_at=cycle.wake_at)


class _Cycle:
    """One run over the queue; each placement leaves less for those behind."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self.wake_at: float | None = None
        self._snapshot = snapshot
        self._now = now
        self._capacity: Capacity | None = None
        self._refused: dict[tuple[tuple[str, ...], tuple[Want, ...]], tuple[Reason, str]] = {}

    def decide(self, workload: Workload) -> Decision | None:
        """The decision about one workload, or None when nothing about it changes."""
        standings = stand(self._snapshot.assignments.get(workload.name, ()), self._snapshot, self._now)
        verdict = judge(workload, standings, self._now)
        if verdict.wake_at is not None and verdict.state not in ENDED:
            self.wake_at = min(verdict.wake_at, self.wake_at or verdict.wake_at)
        placement = None
        if verdict.need is not None:
            wanted = standings[-1].assignment if standings and not standings[-1].assignment.revoked else None
            placement = self._place(workload, verdict, verdict.need, wanted)
        assert may_follow(workload.state, verdict.state), (workload.name, workload.state, verdict.state)
        return _decision(workload, verdict, placement)

    def _place(self, workload: Workload, verdict: Verdict, need: Need, wanted: Assignment | None) -> Placement | None:
        """Find places for what is needed; a new generation if that changes anything, else the reason why not."""
        pools = (wanted.pool,) if wanted else allowed_pools(workload, self._snapshot)
        pool, spots = self._pack(pools, need.wants)
        if need.count and not spots:
            verdict.reason, verdict.message = self._why(workload, pools, need.wants)
        if not spots and not need.has_dropped:
            return None
        if wanted:
            verdict.revoke.append(Revocation(generation=wanted.generation, reason=REPLACED, grace_s=GRACE_S))
            if not spots and not need.kept:
                return None  # nothing is left of it: it starts again from nothing once the old slices have stopped
        verdict.state = State.ASSIGNED
        slices = _number(need.kept, spots)
        # A slice that is kept and still runs is on its node's present session; one that has ended needs none.
        sessions = {each.node: wanted.sessions[each.node] for each in need.kept} if wanted else {}
        sessions |= {spot.node: self._snapshot.nodes[spot.node].session for spot in spots}
        verdict.slices = slices
        return Placement(
            pool=pool,
            slices=slices,
            kept=frozenset(each.index for each in need.kept),
            sessions=tuple(sorted(sessions.items())),
        )

    def _pack(self, pools: Sequence[str], wants: tuple[Want, ...]) -> tuple[str, tuple[Spot, ...]]:
        if self._capacity is None:
            self._capacity = Capacity.of(self._snapshot)
        if (tuple(pools), wants) not in self._refused:  # what did not fit before does not fit now: room only shrinks
            for pool in pools:
                spots = pack(self._capacity, pool, wants)
                if spots:
                    return pool, spots
        return pools[0] if pools else "", ()

    def _why(self, workload: Workload, pools: Sequence[str], wants: tuple[Want, ...]) -> tuple[Reason, str]:
        shape = (tuple(pools), wants)
        if shape not in self._refused:
            assert self._capacity is not None
            full = [Want(group=want.group, least=want.least or want.most, most=want.most) for want in wants]
            self._refused[shape] = explain(workload, pools, full, self._snapshot, self._capacity)
        return self._refused[shape]


def _number(kept: Sequence[Slice], spots: Sequence[Spot]) -> tuple[Slice, ...]:
    """The slices of a generation: those that stay keep their index, the others take the lowest that are free."""
    taken = {each.index for each in kept}
    free = (index for index in range(len(kept) + len(spots)) if index not in taken)
    added = [
        Slice(index=index, group=spot.group, node=spot.node, devices=spot.devices)
        for index, spot in zip(free, spots, strict=False)
    ]
    return tuple(sorted([*kept, *added], key=lambda each: each.index))


def _decision(workload: Workload, verdict: Verdict, placement: Placement | None) -> Decision | None:
    decision = Decision(
        workload=workload.name,
        state=verdict.state,
        generation=workload.generation + (placement is not None),
        restarts=verdict.restarts,
        reason=verdict.reason,
        message=verdict.message,
        slices=verdict.slices,
        placement=placement,
        revoke=tuple(verdict.revoke),
        retire=verdict.retire,
        missing=verdict.missing if verdict.revoke or verdict.retire else (),
    )
    same = (workload.state, workload.restarts, workload.reason, workload.message, workload.slices)
    if same == (decision.state, decision.restarts, decision.reason, decision.message, decision.slices) and not (
        decision.placement or decision.revoke or decision.retire
    ):
        return None
    return decision
