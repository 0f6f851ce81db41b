"""What one cycle keeps: free places, quotas, floating resources and reservations, as its decisions change them."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from services.scheduler.lifecycle import FINAL
from services.scheduler.planner.ask import Ask, Want
from services.scheduler.planner.fleet import Fleet
from services.scheduler.planner.floating import floating_use
from services.scheduler.planner.holdings import holdings
from services.scheduler.planner.memory import Memory
from services.scheduler.planner.quota import Quotas, project_of
from services.scheduler.planner.reservations import Reserved
from services.scheduler.planner.use import Cell, Use, held_by, reserved_by
from services.scheduler.planner.verdict import PREEMPTED, REPLACED, RESIZED, Verdict, unchanged
from services.scheduler.queue_values import Queue
from services.scheduler.snapshot import Assignment, Slice, Snapshot, State, Workload

_FOR_OTHERS: Final = frozenset({PREEMPTED, RESIZED, REPLACED})


class Books:
    """The state of a cycle."""

    def __init__(self, snapshot: Snapshot, now: float, memory: Memory | None = None) -> None:
        self.snapshot = snapshot
        self.memory = memory or Memory()
        self.now = now
        self.wake_at: float | None = None
        self.verdicts: dict[str, Verdict] = {}  # of the workloads about which something is decided, or may be
        self.reserved = Reserved(snapshot)
        self._fleet: Fleet | None = None
        self._quotas: Quotas | None = None
        self._floating: dict[str, int] | None = None
        self._coming_back: list[tuple[str, Use]] | None = None
        self._stopping: dict[str, list[tuple[Assignment, tuple[int, ...]]]] | None = None

    @property
    def fleet(self) -> Fleet:
        """What is free; reckoned up when it is first asked for."""
        if self._fleet is None:
            self._fleet = fleet = self.memory.fleet(self.snapshot)
            for name in self.reserved.names():
                self.hold_reservation(name)
            return fleet
        return self._fleet

    @property
    def quotas(self) -> Quotas:
        """What the queues use."""
        if self._quotas is None:
            self._quotas = self.memory.quotas(self.snapshot)
        return self._quotas

    @property
    def floating(self) -> dict[str, int]:
        """What is left of each floating resource: all that is admitted holds its part until nothing of it runs."""
        if self._floating is None:
            self._floating = dict(self.snapshot.floating)
            for name, amount in floating_use(self.snapshot).items():
                self._floating[name] = self._floating.get(name, 0) - amount
        return self._floating

    def charge_floating(self, workload: Workload, sign: int = 1) -> None:
        """Take (sign -1: give back) what a workload holds of floating resources."""
        for name, amount in workload.floating:
            self.floating[name] = self.floating.get(name, 0) - sign * amount

    def give_up_claim(self, workload: Workload) -> None:
        """Its reservation is over: what that alone kept for it of quotas and floating resources is for all again."""
        if workload.quota_reserved_at is None or workload.state is not State.PENDING:
            self.quotas.release(workload.name)
            if workload.state is State.PENDING and workload.name not in self.snapshot.assignments:
                self.charge_floating(workload, -1)

    def wake(self, at: float | None) -> None:
        """Look again at this time at the latest."""
        if at is not None and (self.wake_at is None or at < self.wake_at):
            self.wake_at = at

    def verdict(self, workload: Workload) -> Verdict:
        """The draft about a workload, to be changed."""
        if workload.name not in self.verdicts:
            self.verdicts[workload.name] = unchanged(workload)
        return self.verdicts[workload.name]

    def is_settled(self, name: str) -> bool:
        """Whether nothing is decided about a workload yet that another decision could contradict."""
        verdict = self.verdicts.get(name)
        return verdict is None or not (
            verdict.revoke
            or verdict.need
            or verdict.placement
            or verdict.reservation
            or verdict.drops_reservation
            or (verdict.tasks is not None and (verdict.tasks.added or verdict.tasks.is_revoked))
        )

    def queue(self, workload: Workload) -> Queue | None:
        """The queue that a workload is in."""
        return self.snapshot.queues.get(self.quotas.queue_of(workload.name))

    def project(self, name: str) -> str:
        """The project of a workload."""
        return project_of(name)

    def wanted(self, workload: Workload) -> Assignment | None:
        """The generation that runs and goes on running, as far as is decided."""
        generations = self.snapshot.assignments.get(workload.name)
        if not generations or generations[-1].revoked or workload.state not in (State.ASSIGNED, State.RUNNING):
            return None
        return generations[-1] if self.is_settled(workload.name) else None

    def stopping(self, pool: str) -> list[tuple[Assignment, tuple[int, ...]]]:
        """What is being stopped in a pool for nobody in particular, with the slices that still hold places."""
        if self._stopping is None:
            self._stopping = {}
            for name in sorted(self.snapshot.assignments):
                for assignment, indices in self._stopping_of(name):
                    if not self.reserved.is_victim(name, assignment.generation):
                        self._stopping.setdefault(assignment.pool, []).append((assignment, indices))
        return self._stopping.get(pool, [])

    @property
    def coming_back(self) -> list[tuple[str, Use]]:
        """The quota that is free again once all has stopped that is being stopped: by workload."""
        if self._coming_back is None:
            found: dict[tuple[str, int], dict[Cell, int]] = {}
            for name in sorted(self.snapshot.assignments):
                newer: frozenset[int] = frozenset()
                for each in reversed(self.snapshot.assignments[name]):
                    if self.is_stopping(each):
                        left = tuple(one for one in each.slices if one.index not in newer)
                        found[name, each.generation] = held_by([replace(each, slices=left, kept=frozenset())])
                    newer = each.kept
            for name in self.reserved.names():
                self._keep_back(name, found)
            self._coming_back = [(name, use) for (name, _), use in sorted(found.items()) if use]
        return self._coming_back

    def _keep_back(self, name: str, found: dict[tuple[str, int], dict[Cell, int]]) -> None:
        """What is freed in a reservation's own queue is charged once: as the victims', as long as they have it."""
        reservation = self.reserved.get(name)
        assert reservation is not None
        wanted = reserved_by(reservation)
        for victim in reservation.victims:
            if self.quotas.queue_of(victim[0]) == self.quotas.queue_of(name):
                use = found.get(victim, {})
                for cell, amount in use.items():
                    common = min(amount, wanted.get(cell, 0))
                    use[cell] = amount - common
                    wanted[cell] = wanted.get(cell, 0) - common

    def is_stopping(self, assignment: Assignment) -> bool:
        """Whether a generation is told to stop, or will be in this cycle for its own sake."""
        verdict = self.verdicts.get(assignment.workload)
        orders = verdict.revoke if verdict is not None else ()
        return bool(assignment.revoked) or any(
            each.generation == assignment.generation and each.reason not in _FOR_OTHERS for each in orders
        )

    def _stopping_of(self, name: str) -> Iterator[tuple[Assignment, tuple[int, ...]]]:
        generations = self.snapshot.assignments[name]
        if len(generations) == 1 and not self.is_stopping(generations[0]):
            return
        held: dict[int, list[int]] = {}
        for assignment, each in holdings(generations, self.snapshot.nodes):
            if self.is_stopping(assignment):
                held.setdefault(assignment.generation, []).append(each.index)
        for assignment in generations:
            if assignment.generation in held:
                yield assignment, tuple(held[assignment.generation])

    def hold_reservation(self, name: str) -> None:
        """Keep others from what is reserved beyond what its victims still hold."""
        extra = self.reserved.beyond(name)
        for each in extra.slices:
            self.fleet.hold(each.node, extra.groups[each.group].demand, each.devices)

    def lift_reservation(self, name: str) -> None:
        """Give back what `hold_reservation` holds."""
        self.fleet.release(self.reserved.beyond(name))


def ask_of(workload: Workload, pool: str, wants: Iterable[Want], near: Iterable[str] = ()) -> Ask:
    """What a workload asks of a pool."""
    return Ask(
        pool=pool,
        wants=tuple(wants),
        selector=workload.selector,
        tolerations=workload.tolerations,
        topology=workload.topology,
        is_spread=workload.is_spread,
        near=tuple(near),
    )


def running(assignment: Assignment, snapshot: Snapshot) -> list[Slice]:
    """The slices of the newest generation that hold a place."""
    nodes, sessions = snapshot.nodes, assignment.sessions
    return [
        each
        for each in assignment.slices
        if each.state not in FINAL
        and (node := nodes.get(each.node)) is not None
        and node.session == sessions.get(each.node)
    ]
