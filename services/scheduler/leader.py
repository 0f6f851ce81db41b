"""The leader: elected among the replicas, it plans whenever something has changed and commits what it has planned."""

import asyncio
from collections.abc import Coroutine, Iterable
from time import monotonic, time_ns
from typing import Any, Final

from chassis import telemetry
from chassis.clock import Clock
from chassis.election import Election, Leadership
from chassis.logs import logger
from services.scheduler.commit import Committer, LeadershipLost
from services.scheduler.ledger import Ledger
from services.scheduler.planner import Decision, Memory, plan
from services.scheduler.snapshot import State

log = logger(__name__)

_AFTER_CONFLICT_S: Final = 0.05
_MOST: Final = 5000  # placements of one plan: while it is made, nothing else is done here, not even the lease renewed

CYCLES = telemetry.histogram("scheduler_plan_seconds", "Time that one run of the planner took")
PLACED = telemetry.counter("scheduler_placements_total", "Generations that were placed")
REVOKED = telemetry.counter("scheduler_revocations_total", "Generations that were told to stop", ("reason",))
PENDING = telemetry.gauge("scheduler_pending_workloads", "Workloads that wait for a place, as of the last plan")
LEADING = telemetry.gauge("scheduler_is_leader", "Whether this replica leads")


class Leader:
    """One replica's part in leading."""

    def __init__(
        self,
        election: Election,
        ledger: Ledger,
        committer: Committer,
        clock: Clock,
        *,
        fence_s: float,
        debounce_s: float = 0.0,
    ) -> None:
        self.is_leading = asyncio.Event()
        self._election = election
        self._ledger = ledger
        self._committer = committer
        self._clock = clock
        self._fence_s = fence_s
        self._debounce_s = debounce_s
        self._memory = Memory()

    async def run(self) -> None:
        """Lead whenever elected, for ever."""
        await self._ledger.synced.wait()
        while True:
            async with self._election.lead() as leadership:
                self.is_leading.set()
                LEADING.set(1)
                try:
                    await self._lead(leadership)
                except* LeadershipLost:
                    log.warning("another replica leads")
                finally:
                    self.is_leading.clear()
                    LEADING.set(0)

    async def _lead(self, leadership: Leadership) -> None:
        while not leadership.lost.is_set():
            self._ledger.changed.clear()
            wake_at = await self._cycle(leadership)
            delay_s = None if wake_at is None else max(0.0, wake_at - self._clock.monotonic())
            await self._first_of(delay_s, self._ledger.changed.wait(), leadership.lost.wait())
            await self._clock.sleep(self._debounce_s)

    async def _cycle(self, leadership: Leadership) -> float | None:
        """Plan and commit once; when to do so again even if nothing happens."""
        started, started_ns = monotonic(), time_ns()
        snapshot = self._ledger.snapshot(self._fence_s)
        planned = plan(snapshot, self._clock.monotonic(), self._memory, _MOST)
        CYCLES.observe(monotonic() - started)
        PENDING.set(sum(each.state is State.PENDING for each in snapshot.workloads.values()))
        if not planned.decisions and not planned.dropped:
            return planned.wake_at
        spans = self._spans(planned.decisions, started_ns)
        traces = {workload: span.trace.traceparent for workload, span in spans.items()}
        try:
            revision, overtaken = await self._committer.commit(
                planned.decisions, leadership.guard, traces, planned.dropped
            )
        finally:
            for span in spans.values():
                span.end()
        PLACED.inc(sum(each.placement is not None for each in planned.decisions))
        for each in planned.decisions:
            for revocation in each.revoke:
                REVOKED.labels(revocation.reason).inc()
        # Plan again only when our own writes are known here: they are part of the next snapshot.
        await self._first_of(None, self._ledger.reached(revision), leadership.lost.wait())
        if overtaken:
            retry_at = self._clock.monotonic() + _AFTER_CONFLICT_S
            return min(retry_at, planned.wake_at or retry_at)
        return planned.wake_at

    def _spans(self, decisions: Iterable[Decision], started_ns: int) -> dict[str, telemetry.Span]:
        """For each sampled workload that is placed: a `schedule.plan`, ended, and under it `schedule.assign`, open."""
        spans: dict[str, telemetry.Span] = {}
        for each in decisions:
            record = self._ledger.workloads.get(each.workload)
            parent = telemetry.parse(record.proto.trace_context) if record and each.placement else None
            if parent is None:
                continue
            span = telemetry.start_span("schedule.plan", parent, attributes=_facts(each))
            if span is None:
                continue
            span.start_ns = started_ns
            span.end()
            assign = telemetry.start_span("schedule.assign", span.trace, attributes=_facts(each))
            if assign is not None:
                spans[each.workload] = assign
        return spans

    async def _first_of(self, timeout_s: float | None, *awaited: Coroutine[Any, Any, object]) -> None:
        """Return when one of these has happened, or the time is over."""
        async with asyncio.TaskGroup() as tasks:
            waiting = {tasks.create_task(each) for each in awaited}
            if timeout_s is not None:
                waiting.add(tasks.create_task(self._clock.sleep(timeout_s)))
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()


def _facts(decision: Decision) -> dict[str, str | bool | int | float]:
    slices = len(decision.placement.slices) if decision.placement else 0
    return {"lepton.workload": decision.workload, "lepton.generation": decision.generation, "lepton.slices": slices}
