"""What the control plane has stored: the records that the planner is shown, changed as leader and agents would."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Final

from services.scheduler.lifecycle import ENDED, FINAL, may_follow
from services.scheduler.planner.budgets import pause_s
from services.scheduler.planner.decision import Decision
from services.scheduler.planner.quota import queue_of_project
from services.scheduler.planner.shares import accrued, decayed
from services.scheduler.queue_values import Queue
from services.scheduler.snapshot import (
    Assignment,
    CheckState,
    Group,
    Node,
    Ran,
    Reservation,
    SliceState,
    Snapshot,
    State,
    Workload,
)

# What a decision says about a workload under the workload's own names is copied, also what later versions will add.
_COPIED: Final = tuple(
    sorted({each.name for each in fields(Decision)} & {each.name for each in fields(Workload)} - {"name"})
)


class World:
    """The records. Mappings are changed in place, so a snapshot costs nothing and holds until the next change."""

    def __init__(
        self,
        *,
        pools: Iterable[str] = ("pools/p",),
        queues: Mapping[str, Queue] | None = None,
        floating: Mapping[str, int] | None = None,
        fence_s: float = 10.0,
    ) -> None:
        self.pools = frozenset(pools)
        self.nodes: dict[str, Node] = {}
        self.workloads: dict[str, Workload] = {}  # those that have not ended
        self.assignments: dict[str, tuple[Assignment, ...]] = {}
        self.reservations: dict[str, Reservation] = {}
        self.gone: dict[str, float] = {}
        self.usage: dict[str, float] = {}
        self._queues = dict(queues or {})
        self._floating = dict(floating or {})
        self._fence_s = fence_s
        self._accounted_at = 0.0
        self._half_lives: dict[str, float] = {}
        self._ran: dict[tuple[Group, ...], dict[str, Ran]] = {}

    def snapshot(self) -> Snapshot:
        """As the planner sees it now."""
        return Snapshot(
            pools=self.pools,
            nodes=self.nodes,
            workloads=self.workloads,
            assignments=self.assignments,
            gone=self.gone,
            fence_s=self._fence_s,
            queues=self._queues,
            floating=self._floating,
            reservations=self.reservations,
            usage=self.usage,
        )

    def join(self, node: Node) -> None:
        """A node's session is there."""
        self.nodes[node.name] = node
        self.gone.pop(node.name, None)

    def leave(self, name: str, now: float) -> None:
        """A node's session has ended."""
        del self.nodes[name]
        self.gone[name] = now

    def submit(self, workload: Workload, now: float) -> None:
        """A new workload."""
        self.workloads[workload.name] = replace(
            workload, submitted=workload.submitted or int(now * 1e9), waiting_since=now
        )

    def cancel(self, name: str) -> None:
        """Its owner wants it no more."""
        self.workloads[name] = replace(self.workloads[name], state=State.CANCELLING)

    def carry_out(self, decision: Decision, now: float, slices_are: SliceState) -> Workload:
        """Write a decision; new slices are in the given state at once. The workload afterwards."""
        before = self.workloads[decision.workload]
        if not may_follow(before.state, decision.state):
            raise ValueError(f"{before.name} cannot go from {before.state.name} to {decision.state.name}")
        changes = {name: getattr(decision, name) for name in _COPIED}
        if decision.restarts > before.restarts:
            changes["not_before"] = now + pause_s(decision.failures, decision.restarts)
        reserved_at = now if before.quota_reserved_at is None else before.quota_reserved_at
        changes["quota_reserved_at"] = reserved_at if decision.has_quota else None
        if decision.placement is not None:
            changes["assigned_at"] = now
        elif decision.state is State.PENDING and before.state is not State.PENDING:
            changes |= {"waiting_since": now, "assigned_at": None}
        if decision.resets_checks:
            changes["checks"] = tuple(replace(each, state=CheckState.UNKNOWN, message="") for each in before.checks)
        after = replace(before, **changes)
        self._write_generations(decision, after, slices_are)
        if decision.drops_reservation:
            self.reservations.pop(after.name, None)
        if decision.reservation is not None:
            self.reservations[after.name] = decision.reservation
        if decision.state in ENDED:
            self.workloads.pop(after.name)
            self.assignments.pop(after.name, None)
            self.reservations.pop(after.name, None)
        else:
            self.workloads[after.name] = after
        return after

    def _write_generations(self, decision: Decision, after: Workload, slices_are: SliceState) -> None:
        if not (decision.revoke or decision.retire or decision.placement):
            return
        revoked = {each.generation: each.reason for each in decision.revoke}
        generations = [
            replace(each, revoked=revoked[each.generation]) if each.generation in revoked else each
            for each in self.assignments.get(after.name, ())
            if each.generation not in decision.retire
        ]
        if decision.placement is not None:
            placement = decision.placement
            generations.append(
                Assignment(
                    workload=after.name,
                    generation=decision.generation,
                    pool=placement.pool,
                    slices=tuple(
                        each if each.index in placement.kept else replace(each, state=slices_are)
                        for each in placement.slices
                    ),
                    sessions=dict(placement.sessions),
                    groups=self._programs(after.groups),
                    kept=placement.kept,
                )
            )
        if generations:
            self.assignments[after.name] = tuple(generations)
        else:
            self.assignments.pop(after.name, None)

    def _programs(self, groups: tuple[Group, ...]) -> Mapping[str, Ran]:
        if groups not in self._ran:
            self._ran[groups] = {each.name: Ran(demand=each.demand, program=each.program) for each in groups}
        return self._ran[groups]

    def report(self, name: str, generation: int, indices: Iterable[int], state: SliceState) -> None:
        """Agents report these slices; what is final stays."""
        indices = frozenset(indices)
        self.assignments[name] = tuple(
            replace(
                each,
                slices=tuple(
                    replace(one, state=state) if one.index in indices and one.state not in FINAL else one
                    for one in each.slices
                ),
            )
            if each.generation == generation
            else each
            for each in self.assignments.get(name, ())
        )

    def measured(self, name: str, slices: int, samples_per_s: float) -> None:
        """A job reports how fast it goes with so many slices."""
        workload = self.workloads[name]
        throughput = tuple(sorted({**dict(workload.throughput), slices: samples_per_s}.items()))
        if throughput != workload.throughput:
            self.workloads[name] = replace(workload, throughput=throughput)

    def account(self, held: Mapping[str, float], now: float) -> None:
        """Sample what the projects hold: their dominant shares since the last sample, older use counting less."""
        elapsed_s, self._accounted_at = now - self._accounted_at, now
        for project in sorted({*held, *self.usage}):
            half_life_s = self._half_life_s(project)
            before = decayed(self.usage.get(project, 0.0), elapsed_s, half_life_s)
            self.usage[project] = before + accrued(held.get(project, 0.0), elapsed_s, half_life_s)

    def _half_life_s(self, project: str) -> float:
        if project not in self._half_lives:
            queue = self._queues.get(queue_of_project(project, self._queues))
            self._half_lives[project] = queue.half_life_s if queue else Queue(name="").half_life_s
        return self._half_lives[project]

    def saved(self, name: str, now: float) -> None:
        """A job reports that a checkpoint is safe."""
        self.workloads[name] = replace(self.workloads[name], checkpoint_at=now)
