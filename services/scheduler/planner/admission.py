"""Letting a workload in: past the gates, within its quota, into a pool; if there is no room, by making some."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.scheduler.planner.ask import Ask, Spot, Want
from services.scheduler.planner.asks import affordable, asks_of, draft_of, for_tasks, turn
from services.scheduler.planner.avoidance import attempts, place
from services.scheduler.planner.backfill import Backfill
from services.scheduler.planner.books import Books, ask_of
from services.scheduler.planner.decision import Placement
from services.scheduler.planner.evicting import evict, waiting_words
from services.scheduler.planner.gates import Refusal, floating_gap, held_back, put_off, quota_words, unanswered
from services.scheduler.planner.placing import placement_of
from services.scheduler.planner.preemption import Claim, Eviction, Preemption
from services.scheduler.planner.quota import Fit, QuotaFit, project_of
from services.scheduler.planner.reasons import allowed_pools, explain, no_pool
from services.scheduler.planner.repairing import repair
from services.scheduler.planner.tasks import TaskDraft
from services.scheduler.planner.use import held_by, least_use, use_of_ask, use_of_spots
from services.scheduler.planner.verdict import Verdict
from services.scheduler.snapshot import Reason, Reservation, State, Workload

MAX_EVICTIONS: Final = 16  # workloads for which others are stopped, in one cycle
TOGETHER: Final = 64  # tasks of an array for which others are stopped at once
_HOPELESS: Final = frozenset({Reason.NO_MATCHING_POOL, Reason.EXCEEDS_MAX_QUOTA})


class Admission:
    """Lets workloads in, one after the other; each leaves less for those behind."""

    def __init__(self, books: Books) -> None:
        self.blocked_pools: set[str] = set()  # where somebody waits for room
        self.expired: set[str] = set()  # those whose reservation ends with their next turn, whatever that brings
        self.admitted: list[Workload] = []  # those that begin in this cycle
        self.tasks = 0  # of arrays, that were placed in this cycle
        self.rest: Refusal | None = None  # why the last one, an array, got places for some of its tasks only
        self.wants_more = False  # whether it could take more than its turn
        self.depends_on_duration = False  # whether the last answer might have been another for one that runs longer
        self._books = books
        self._backfill = Backfill(books)
        self._preemption = Preemption(books)
        self._evictions = 0

    def admit(self, workload: Workload) -> Refusal | None:
        """Give a workload its place, or the reason why not."""
        self.depends_on_duration, self.rest, self.wants_more = False, None, False
        verdict = self._books.verdicts.get(workload.name)
        if verdict is not None and verdict.tasks is not None and (verdict.tasks.base or verdict.placement):
            return self._more_tasks(workload, verdict, verdict.tasks)
        if verdict is not None and verdict.need is not None and verdict.need.is_repair:
            return repair(self._books, workload, verdict, verdict.need, self.blocked_pools)
        return self._begin(workload)

    def has_head(self, workload: Workload) -> bool:
        """Whether in each pool that it may use somebody waits for whom room is kept."""
        return self._backfill.has_heads(allowed_pools(workload, self._books.snapshot))

    def may_pass(self, workload: Workload, duration_s: float) -> bool:
        """Whether one that runs for so long would be over before the head of a pool that it may use begins."""
        return self._backfill.may_pass(allowed_pools(workload, self._books.snapshot), duration_s)

    # A gang that starts from nothing.

    def _begin(self, workload: Workload) -> Refusal | None:
        books, name = self._books, workload.name
        refusal = held_back(workload, books)
        pools = allowed_pools(workload, books.snapshot)
        if refusal is None and not pools:
            refusal = no_pool(workload)
        has_claim = workload.quota_reserved_at is not None or name in books.reserved
        if refusal is not None:
            if has_claim:
                books.verdict(workload).has_quota = False
                books.quotas.release(name)
                books.charge_floating(workload, -1)
            if name in self.expired:
                books.lift_reservation(name)
                self._drop_reservation(workload)
            return refusal
        if not has_claim:
            return self._enter(workload, pools, None)
        reservation, mark = books.reserved.get(name), books.quotas.mark()
        is_last = name in self.expired
        books.quotas.release(name)
        books.charge_floating(workload, -1)
        if reservation is not None:
            books.lift_reservation(name)
        refusal = self._enter(workload, pools, reservation)
        if refusal is None:
            if reservation is not None:
                self._drop_reservation(workload)
        elif refusal[0] in _HOPELESS:
            books.verdict(workload).has_quota = False  # it would keep from others what it cannot use
        elif books.verdict(workload).reservation is None:
            if reservation is not None and not is_last:
                books.hold_reservation(name)
            if books.verdict(workload).has_quota or reservation is not None:
                books.quotas.undo(mark)
                books.charge_floating(workload)
            if is_last:
                books.give_up_claim(workload)
        if is_last and refusal is not None:
            self._drop_reservation(workload)
        return refusal

    def _drop_reservation(self, workload: Workload) -> None:
        self._books.verdict(workload).drops_reservation = True
        self._books.reserved.drop(workload.name)
        self.expired.discard(workload.name)

    def _enter(self, workload: Workload, pools: Sequence[str], reservation: Reservation | None) -> Refusal | None:
        books, name = self._books, workload.name
        refusal = floating_gap(workload, books)
        if refusal is not None:
            return refusal
        queue, project = books.quotas.queue_of(name), project_of(name)
        asks = asks_of(books, workload, pools, reservation)
        fits = [(books.quotas.fit(queue, project, use_of_ask(workload, ask)), ask) for ask in asks]
        if all(fit.kind is Fit.NEVER for fit, _ in fits):
            return Reason.EXCEEDS_MAX_QUOTA, quota_words(fits[0][0].gaps)
        kept = asks[0] if reservation is not None else None  # its own places first, also where they cost borrowing
        fits = sorted(
            (each for each in fits if each[0].kind is not Fit.NEVER),
            key=lambda each: (each[0].kind is Fit.WAIT, each[1] is not kept, each[0].kind),
        )
        open_ = [ask for fit, ask in fits if fit.kind is not Fit.WAIT]
        if workload.checks:
            possible = [ask for _, ask in fits]
            if not any(books.fleet.ever_fits(ask) for ask in possible):
                books.verdict(workload).has_quota = False
                return explain(possible, books.snapshot, books.fleet)
            refusal = self._ask_checks(workload, queue, project, bool(open_))
            if refusal is not None:
                return refusal
        for ask, avoided in attempts(open_, workload):
            spots = place(books.fleet, affordable(self._books, workload, queue, project, ask), avoided)
            if spots is not None:
                return self._start(workload, queue, project, ask, spots)
        if reservation is not None:
            return Reason.WAITING_FOR_PREEMPTED, waiting_words(len(reservation.victims))
        return self._blocked(workload, queue, project, fits, open_)

    def _ask_checks(self, workload: Workload, queue: str, project: str, has_quota: bool) -> Refusal | None:
        """Two phases: the quota is reserved first, and its checks are READY before it gets a place."""
        verdict = self._books.verdict(workload)
        if put_off(workload, verdict):
            return verdict.reason, verdict.message
        waits_for = unanswered(workload, verdict)
        if not waits_for or not has_quota:
            verdict.resets_checks = verdict.resets_checks and has_quota
            return None
        if not verdict.has_quota:
            verdict.has_quota = True
            self._books.quotas.charge(queue, project, least_use(workload))
            self._books.charge_floating(workload)
        return Reason.WAITING_FOR_ADMISSION_CHECK, f"its quota is reserved; it waits for {waits_for}"

    def _start(self, workload: Workload, queue: str, project: str, ask: Ask, spots: tuple[Spot, ...]) -> Refusal | None:
        books = self._books
        verdict = books.verdict(workload)
        verdict.reason, verdict.message, verdict.need = Reason.NONE, "", None
        verdict.state, verdict.has_quota = State.ASSIGNED, True
        if workload.name not in books.reserved:
            verdict.granted = ()
        books.quotas.charge(queue, project, use_of_spots(workload, ask.pool, spots))
        books.charge_floating(workload)
        self.admitted.append(workload)
        if workload.array is None:
            verdict.placement = placement_of(workload, ask.pool, spots, books.snapshot)
            verdict.slices = verdict.placement.slices
        else:
            verdict.placement = Placement(pool=ask.pool, slices=(), kept=frozenset(), sessions=())
            self._add_tasks(workload, verdict, ask, spots)
        return None

    def _blocked(
        self,
        workload: Workload,
        queue: str,
        project: str,
        fits: Sequence[tuple[QuotaFit, Ask]],
        open_: Sequence[Ask],
    ) -> Refusal | None:
        """It does not fit as things are: it passes a head that waits for later, makes room, or waits itself."""
        for ask in open_:
            spots = self._backfill.pass_by(workload, affordable(self._books, workload, queue, project, ask))
            if spots is not None:
                return self._start(workload, queue, project, ask, spots)
        claims = [
            Claim(workload=workload, queue=queue, project=project, ask=ask, use=use_of_ask(workload, ask))
            for _, ask in fits
        ]
        is_coming = any(self._preemption.is_coming(claim) for claim in claims)
        if self._evictions < MAX_EVICTIONS and not is_coming:
            self._preemption.has_victims = False
            found = self._find_evictions(workload, claims)
            self.depends_on_duration = self._preemption.has_victims
            if found:
                self._evictions += 1
                eviction, claim = min(found, key=lambda each: (each[0].cost, len(each[0].units), each[0].pool))
                self.blocked_pools.add(eviction.pool)
                self._books.verdict(workload)
                return Reason.WAITING_FOR_PREEMPTED, evict(self._books, claim, eviction)
        for claim in claims:
            self._books.wake(self._preemption.wake_at(claim))
        if not open_:
            return Reason.WAITING_FOR_QUOTA, quota_words(fits[0][0].gaps)
        self.blocked_pools.update(ask.pool for ask in open_)
        behind = self._backfill.behind(open_)
        if behind is not None:
            return Reason.BEHIND_RESERVATION, behind
        self._backfill.wait(workload, open_)
        refusal = explain(open_, self._books.snapshot, self._books.fleet)
        if refusal[0] is Reason.NO_MATCHING_POOL and len(open_) < len(fits):  # where it could run, its quota is short
            return Reason.WAITING_FOR_QUOTA, quota_words(next(fit.gaps for fit, _ in fits if fit.kind is Fit.WAIT))
        return refusal

    def _find_evictions(self, workload: Workload, claims: Sequence[Claim]) -> list[tuple[Eviction, Claim]]:
        """What might go for it; for an array as many tasks as can be had, down to one."""
        count = 1 if workload.array is None else max(1, min(TOGETHER, draft_of(self._books, workload).due()))
        while True:
            wished = claims if count == 1 else [for_tasks(claim, count) for claim in claims]
            found = [(eviction, claim) for claim in wished if (eviction := self._preemption.find(claim)) is not None]
            if found or count == 1:
                return found
            count //= 2

    # Tasks of an array.

    def _more_tasks(self, workload: Workload, verdict: Verdict, draft: TaskDraft) -> Refusal | None:
        """Places for tasks beside those that run, in the same pool."""
        books, name = self._books, workload.name
        most = turn(self._books, workload)
        if verdict.revoke or not most:  # it makes room for another
            return None
        refusal = held_back(workload, books)
        if refusal is not None:
            return refusal
        pool = verdict.placement.pool if verdict.placement is not None else draft.base.pool if draft.base else ""
        if pool not in books.snapshot.pools:
            return no_pool(workload)
        queue, project = books.quotas.queue_of(name), project_of(name)
        if draft.lost and draft.base is not None:  # they use quota no more
            use = held_by([replace(draft.base, slices=tuple(draft.lost), kept=frozenset())])
            books.quotas.charge(queue, project, use, -1)
            draft.lost.clear()
        ask = ask_of(workload, pool, [Want(group=workload.groups[0], least=1, most=most)])
        spots: tuple[Spot, ...] | None = None
        if books.quotas.fit(queue, project, use_of_ask(workload, ask)).kind <= Fit.BORROW:
            paid = affordable(books, workload, queue, project, ask)
            spots = books.fleet.place(paid)
            if spots is None:
                spots = self._backfill.pass_by(workload, paid)
        if spots is None:
            return self._others_wait(workload, queue, project, ask)
        books.quotas.charge(queue, project, use_of_spots(workload, pool, spots))
        verdict.reason, verdict.message = Reason.NONE, ""
        self._add_tasks(workload, verdict, ask, spots)
        return None

    def _add_tasks(self, workload: Workload, verdict: Verdict, ask: Ask, spots: Sequence[Spot]) -> None:
        draft = draft_of(self._books, workload)
        draft.add([(each.node, each.devices) for each in spots], workload.groups[0].name)
        self.tasks += len(spots)
        if len(spots) < ask.wants[0].most:
            queue, project = self._books.quotas.queue_of(workload.name), project_of(workload.name)
            self.rest = self._others_wait(workload, queue, project, ask)
            verdict.reason, verdict.message = self.rest
        else:
            self.wants_more = draft.due() > 0

    def _others_wait(self, workload: Workload, queue: str, project: str, ask: Ask) -> Refusal:
        """Those of its tasks that wait: as one that asks for one slice would."""
        one = replace(ask, wants=tuple(replace(want, least=1, most=1) for want in ask.wants))
        if self._books.quotas.fit(queue, project, use_of_ask(workload, one)).kind > Fit.BORROW:
            return Reason.WAITING_FOR_QUOTA, "its other tasks wait for quota"
        self.blocked_pools.add(ask.pool)
        self._backfill.wait(workload, [one])
        return Reason.WAITING_FOR_CAPACITY, "its other tasks wait for room"
