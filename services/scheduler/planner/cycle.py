"""One run of the planner: what has become of each workload, who of those that wait gets a place, and the surplus."""

from collections.abc import Iterator, Mapping
from heapq import nsmallest
from typing import Final

from services.scheduler.lifecycle import ENDED, may_follow
from services.scheduler.planner.admission import Admission
from services.scheduler.planner.array_verdict import judge_array, nothing_runs
from services.scheduler.planner.books import Books
from services.scheduler.planner.decision import Decision, Plan
from services.scheduler.planner.elastic import Elastic
from services.scheduler.planner.gates import Refusal, withdrawn
from services.scheduler.planner.memory import Memory
from services.scheduler.planner.order import Order, ordered
from services.scheduler.planner.quota import project_of
from services.scheduler.planner.refusals import Kind, Refusals
from services.scheduler.planner.reservations import is_void
from services.scheduler.planner.standing import goes_on, stand
from services.scheduler.planner.verdict import Verdict, judge
from services.scheduler.queue_values import Stop
from services.scheduler.snapshot import Reason, Snapshot, State, Workload

TASKS: Final = 16  # tasks of arrays are counted as one placement, so many of them
TOLD: Final = 256  # of those that wait, so many in front are told every change of their reason

# They come and go with every slice that starts or ends somewhere.
_OF_THE_MOMENT: Final = frozenset(
    {
        Reason.WAITING_FOR_CAPACITY,
        Reason.FRAGMENTED,
        Reason.TOPOLOGY_PLACEMENT_FAILED,
        Reason.WAITING_FOR_QUOTA,
        Reason.BEHIND_RESERVATION,
        Reason.WAITING_FOR_FLOATING_RESOURCE,
    }
)
# Whoever waits for one of these is passed by nobody where the queue is strict.
_CLOSING: Final = _OF_THE_MOMENT | {Reason.WAITING_FOR_PREEMPTED, Reason.WAITING_FOR_ADMISSION_CHECK}
_BEHIND: Final[Refusal] = (Reason.BEHIND_RESERVATION, "its queue is strict, and it is not the first")


class Cycle:
    """Decides about everything in one snapshot; each placement leaves less for those behind."""

    def __init__(self, snapshot: Snapshot, now: float, memory: Memory | None = None, most: int = 0) -> None:
        self._snapshot = snapshot
        self._now = now
        self._books = Books(snapshot, now, memory)
        self._admission = Admission(self._books)
        self._most = most
        self._dropped: list[str] = []
        self._limits_projects: dict[str, bool] = {}  # by queue
        self._told = 0

    def run(self) -> Plan:
        """All decisions."""
        waiting = self._judge()
        self._drop_reservations(waiting)
        if waiting:
            self._admit(waiting)
        if self._is_full:
            self._books.wake(self._now)  # who else waits is seen to before any surplus is given
        else:
            Elastic(self._books, self._admission.blocked_pools).grow(self._admission.admitted)
        return Plan(
            decisions=tuple(sorted(self._decisions(), key=self._rank)),
            wake_at=self._books.wake_at,
            dropped=tuple(self._dropped),
        )

    @property
    def _is_full(self) -> bool:
        """Whether this plan has placed as many as it may."""
        return 0 < self._most <= len(self._admission.admitted) + self._admission.tasks // TASKS

    # What has become of each.

    def _judge(self) -> dict[str, Workload]:
        """Draft a verdict on all that run or have run; those that want a place."""
        snapshot, books, now = self._snapshot, self._books, self._now
        assignments = snapshot.assignments
        has_stops = any(each.stop is Stop.HOLD_AND_DRAIN for each in snapshot.queues.values())
        has_stops = has_stops or any(each.checks for each in snapshot.workloads.values())
        waiting: dict[str, Workload] = {}
        memory = books.memory
        memory.look_at_nodes(snapshot)
        for name, workload in snapshot.workloads.items():
            generations = assignments.get(name)
            if generations is None and workload.state is State.PENDING and is_due(workload, now):
                waiting[name] = workload
                continue
            if not has_stops and generations is not None and goes_on(workload, generations, snapshot.nodes):
                continue
            if generations is not None and not has_stops and memory.is_quiet(workload, generations):
                continue
            judged = judge if workload.array is None else judge_array
            verdict = judged(workload, stand(generations or (), snapshot, now), now)
            if verdict.state not in ENDED:
                books.wake(verdict.wake_at)
            wants_more = verdict.tasks is not None and verdict.tasks.base is not None and verdict.tasks.due() > 0
            if verdict.need is not None or wants_more:
                waiting[name] = workload
            is_up = verdict.need is None and not verdict.revoke and verdict.state in (State.ASSIGNED, State.RUNNING)
            if has_stops and is_up:
                self._withdraw(workload, verdict)
            is_array = workload.array is not None  # what is decided about it rests on what is drafted here
            if verdict.need is not None or is_array or _decision(workload, verdict, snapshot) is not None:
                books.verdicts[name] = verdict
            elif generations is not None and verdict.wake_at is None and workload.not_before <= now:
                memory.remember_quiet(workload, generations)
        return waiting

    def _withdraw(self, workload: Workload, verdict: Verdict) -> None:
        revocation = withdrawn(workload, self._books)
        if revocation is not None:
            verdict.revoke.append(revocation)
            verdict.message = f"it is being stopped: {revocation.reason}"
            if verdict.tasks is not None:
                verdict.tasks.is_revoked = True

    def _drop_reservations(self, waiting: Mapping[str, Workload]) -> None:
        """Give up reservations that serve nobody any more; of those whose time is up each that waits has a last chance.

        What was freed for it since the last cycle would else go to others, and it would stop their like once more.
        """
        reserved = self._books.reserved
        for name in reserved.names():
            reservation, workload = reserved.get(name), self._snapshot.workloads.get(name)
            assert reservation is not None
            if workload is None:
                self._dropped.append(name)
                reserved.drop(name)
                continue
            is_expired = self._now >= reservation.expires_at
            has_turn = name in waiting and self._has_claim(workload)
            if is_void(reservation, workload, self._snapshot) or (is_expired and not has_turn):
                self._books.verdict(workload).drops_reservation = True
                reserved.drop(name)
                self._books.give_up_claim(workload)
            elif is_expired:
                self._admission.expired.add(name)
            else:
                self._books.wake(reservation.expires_at)

    # Who gets a place.

    def _admit(self, waiting: Mapping[str, Workload]) -> None:
        claims = {name: each for name, each in waiting.items() if self._has_claim(each)}
        expired = self._admission.expired
        for workload in sorted(
            claims.values(), key=lambda each: (each.name not in expired, -each.priority, each.submitted, each.name)
        ):
            is_last = workload.name in expired
            refusal = self._admission.admit(workload)
            if refusal is not None and is_last:
                del claims[workload.name]  # it has no claim any more: its next turn is in the line
            elif refusal is not None:
                self._refuse(workload, refusal)
            elif self._admission.wants_more:
                del claims[workload.name]  # its other tasks have their turn in the line
        self._admit_in_order({name: each for name, each in waiting.items() if name not in claims})

    def _has_claim(self, workload: Workload) -> bool:
        """Whether quota or places are kept for it already: what others wait for in vain, as long as it waits itself."""
        verdict = self._books.verdicts.get(workload.name)
        if verdict is not None and verdict.need is not None and verdict.need.is_repair:
            return True
        return workload.state is State.PENDING and (
            workload.quota_reserved_at is not None or workload.name in self._books.reserved
        )

    def _admit_in_order(self, waiting: Mapping[str, Workload]) -> None:
        refusals = Refusals(waiting.values(), self._class_of, self._admission)
        order = ordered(self._snapshot, self._now, waiting.values(), self._books.quotas)
        order.pass_over(refusals.is_over)
        seen: set[str] = set()
        for workload in order:
            if self._is_full:
                return
            seen.add(workload.name)
            refusal = refusals.look_at(workload)
            if refusal is not None:
                self._refuse(workload, refusal)
                if refusal[0] in _CLOSING:
                    order.refused(workload)
            elif self._admission.wants_more:
                refusals.put_back(workload)  # first: what is over is dropped from its line
                order.put_back(workload)
            elif self._admission.rest is not None:
                order.refused(workload)
            if refusals.are_complete:
                break  # nobody behind gets anything
        self._refuse_rest([each for name, each in waiting.items() if name not in seen], refusals, order)

    def _refuse_rest(self, rest: list[Workload], refusals: Refusals, order: Order) -> None:
        """Those that were not looked at: behind the first of a strict queue, or like others that were refused."""
        if self._told <= TOLD:
            front = nsmallest(TOLD, rest, key=lambda each: (-each.priority, each.submitted, each.name))
            names = {each.name for each in front}
            rest = [*front, *(each for each in rest if each.name not in names)]
        behind = {each.name for each in order.blocked()}
        for workload in rest:
            refusal = _BEHIND if workload.name in behind else refusals.of(workload)
            if refusal is None:  # passed over as one who gets nothing, and since then what is kept has changed
                refusal = refusals.look_at(workload)
            if refusal is not None:
                self._refuse(workload, refusal)

    def _class_of(self, workload: Workload) -> Kind:
        """Equal for workloads that differ in nothing that matters but in how long they run."""
        name = workload.name
        if workload.checks or workload.quota_reserved_at is not None or name in self._books.reserved:
            return (name,)
        if name in self._books.verdicts:
            return (name,)
        queue = self._books.quotas.queue_of(name)
        if queue not in self._limits_projects:
            self._limits_projects[queue] = self._books.quotas.limits_projects(queue)
        project = project_of(name) if self._limits_projects[queue] else ""
        return queue, project, self._books.memory.likeness(workload)

    def _refuse(self, workload: Workload, refusal: Refusal) -> None:
        """Tell a workload why it waits, if that is news; far behind the front, what changes by the moment is not."""
        self._told += 1
        reason, message = refusal
        verdict = self._books.verdicts.get(workload.name)
        if verdict is None:
            is_same = workload.reason is reason and workload.message == message
            is_stale = self._told > TOLD and workload.reason in _OF_THE_MOMENT and reason in _OF_THE_MOMENT
            if is_same or is_stale:
                return
            verdict = self._books.verdict(workload)
        verdict.reason, verdict.message = reason, message
        nothing_runs(verdict)

    # What is written.

    def _decisions(self) -> Iterator[Decision]:
        for name, verdict in self._books.verdicts.items():
            decision = _decision(self._snapshot.workloads[name], verdict, self._snapshot)
            if decision is not None:
                assert may_follow(self._snapshot.workloads[name].state, decision.state), decision
                yield decision

    def _rank(self, decision: Decision) -> tuple[int, int, str]:
        workload = self._snapshot.workloads[decision.workload]
        return -workload.priority, workload.submitted, workload.name


def is_due(workload: Workload, now: float) -> bool:
    """Whether one without a generation may ask for a place; an array whose tasks all come back is looked at closely."""
    if workload.not_before > now:
        return False
    return workload.array is None or workload.array.placed < workload.array.count


def _decision(workload: Workload, verdict: Verdict, snapshot: Snapshot) -> Decision | None:
    """The decision about one workload, or None when nothing about it changes."""
    is_quiet = not (
        verdict.placement
        or verdict.revoke
        or verdict.retire
        or verdict.reservation
        or verdict.drops_reservation
        or verdict.resets_checks
        or (verdict.tasks is not None and verdict.tasks.has_changed)
    )
    if is_quiet and (
        workload.state is verdict.state
        and workload.reason is verdict.reason
        and workload.message == verdict.message
        and workload.restarts == verdict.restarts
        and workload.granted == verdict.granted
        and (workload.quota_reserved_at is not None) == verdict.has_quota
        and workload.slices == verdict.slices
    ):
        return None
    placement, tasks = verdict.placement, None
    if verdict.tasks is not None:
        tasks, placement = verdict.tasks.finish(placement, snapshot)
    return Decision(
        workload=workload.name,
        state=verdict.state,
        generation=workload.generation + (verdict.placement is not None),
        restarts=verdict.restarts,
        reason=verdict.reason,
        message=verdict.message,
        slices=verdict.slices if tasks is None else (),
        placement=placement,
        revoke=tuple(verdict.revoke),
        retire=verdict.retire,
        missing=verdict.missing if verdict.revoke or verdict.retire else (),
        preemptions=verdict.preemptions,
        granted=verdict.granted,
        has_quota=verdict.has_quota,
        resets_checks=verdict.resets_checks,
        reservation=verdict.reservation,
        drops_reservation=verdict.drops_reservation,
        tasks=tasks,
        together=verdict.together,
        failures=verdict.failures or workload.failures,
    )
