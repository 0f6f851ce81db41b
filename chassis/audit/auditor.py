"""Sees to it that no mutation goes unaudited: none begins that cannot be recorded, none is answered before it is."""

import asyncio
import errno
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from chassis.audit.entry import conclude, entry_of, is_refusal, nanoseconds, reason_of
from chassis.audit.repeats import Repeats
from chassis.audit.shipper import Shipper, Sink, ship_now
from chassis.audit.spool import Spool, SpoolFull
from chassis.call import Call
from chassis.clock import Clock, wait_for_event
from chassis.config import AuditSettings
from chassis.logs import logger
from chassis.telemetry import counter, gauge
from lepton.audit.record import Outcome
from lepton.errors import Unavailable
from lepton.internal.v1.audit_feed_pb2 import AuditEntry

log = logger(__name__)

_TICK_S: Final = 1.0
_LINGER_S: Final = 0.05
_LAST_S: Final = 2.0
_refused = counter("lepton_audit_refused_calls_total", "Calls that were refused because they could not be recorded.")
_in_memory = gauge("lepton_audit_in_memory", "Audit records that no disk has room for.")


class Policy(Protocol):
    """What decided."""

    @property
    def revision(self) -> int:
        """The revision of the policy that decides now."""
        ...


@dataclass(slots=True)
class Ticket:
    """A call that is being recorded; `number` is None where only memory does."""

    entry: AuditEntry
    number: int | None
    is_lost: bool = False  # the disk took its begin, but not its end


class Auditor:
    """The one recorder of a service."""

    def __init__(self, spool: Spool, sink: Sink, policy: Policy, clock: Clock, settings: AuditSettings) -> None:
        self._spool = spool
        self._policy = policy
        self._clock = clock
        self._settings = settings
        self._buffer: deque[AuditEntry] = deque()
        self._in_flight = 0  # calls whose record will be in memory
        self._repeats = Repeats()
        self._shipper = Shipper(spool, sink, clock, self._buffer)
        self._news = asyncio.Event()
        self._is_full = False
        self._lost = 0

    def begin(self, call: Call, named: str = "") -> Ticket:
        """Record that a call is about to be served, on `named` if nothing else tells.

        Raises Unavailable (AUDIT_UNAVAILABLE): then it must not be served.
        """
        entry = self._entry(call, named)
        try:
            number = self._spool.begin(entry)
        except (SpoolFull, OSError) as error:
            self._tell_full(error)
            if self._settings.when_full != "buffer":
                _refused.inc()
                raise Unavailable("AUDIT_UNAVAILABLE", problem="its disk is full") from error
            self._claim_memory()
            return Ticket(entry, None)
        self._is_full = False
        return Ticket(entry, number)

    def end(self, ticket: Ticket, call: Call, error: BaseException | None, answer: Any = None) -> None:
        """Record how it ended; durable after `durable`."""
        if ticket.number is not None and call.is_audited:
            with suppress(OSError):  # a begin without an end says INTERRUPTED: once too much, never too little
                self._spool.drop(ticket.number)
            return
        conclude(ticket.entry, call, error, answer, time_ns=self._now_ns())
        if ticket.number is None:
            self._in_flight -= 1
            if not call.is_audited:
                self._remember(ticket.entry)
        else:
            try:
                self._spool.end(ticket.number, ticket.entry)
            except OSError as failure:
                self._tell_full(failure)
                ticket.is_lost = True
                self._remember(ticket.entry)
        self._news.set()

    async def durable(self, ticket: Ticket, call: Call) -> None:
        """Return when the record is on disk, or the policy takes memory for it."""
        if ticket.number is None or call.is_audited:
            return
        try:
            if ticket.is_lost:
                raise OSError(errno.EIO, "not written")
            await self._spool.durable()
        except OSError as error:
            log.error("an audit record did not reach the disk", error=error)
            if self._settings.when_full != "buffer":
                raise Unavailable("AUDIT_UNAVAILABLE", problem="its disk failed") from error

    def opened(self, call: Call) -> None:
        """Record that a stream begins which may last for days; it is not refused: what runs hangs on it."""
        entry = self._entry(call)
        entry.outcome, entry.reason = Outcome.SUCCEEDED, "OPENED"
        self._add(entry)

    def closed(self, call: Call, error: BaseException | None) -> None:
        """Record that it has ended."""
        entry = self._entry(call)
        conclude(entry, call, error, None, time_ns=self._now_ns())
        self._add(entry)

    def refused(self, call: Call) -> None:
        """Record that a caller may not; alike refusals of a few seconds are one record with their count."""
        entry = self._entry(call)
        entry.outcome, entry.reason = Outcome.REFUSED, reason_of(call.error)
        taken = self._repeats.take(entry, self._clock.monotonic())
        if taken is not None:
            self._add(taken)

    def wants(self, call: Call) -> bool:
        """Whether a call that ended is to be recorded as refused."""
        if call.is_audited or call.error is None:
            return False
        # What another project owns is answered as absent, and is a refusal all the same.
        is_hidden = bool(call.asked) and not call.resource and call.code.name == "NOT_FOUND"
        return is_hidden or is_refusal(call.error)

    async def run(self) -> None:
        """Hand over what is recorded, for ever."""
        try:
            while True:
                self._tick()
                await self._shipper.ship_all()
                _in_memory.set(self._shipper.waiting)
                await self._something()
                self._news.clear()
        finally:
            self._tick(at_end=True)
            await asyncio.shield(ship_now(self._shipper, _LAST_S))

    async def _something(self) -> None:
        """Wait for a record, or for the end of a window; an idle service has no timer."""
        if self._repeats.waits or self._lost:
            if not await wait_for_event(self._news, _TICK_S, self._clock):
                return
        else:
            await self._news.wait()
        await self._clock.sleep(_LINGER_S)  # those that come together go together

    def _tick(self, *, at_end: bool = False) -> None:
        if self._lost and len(self._buffer) < self._settings.buffer_records:
            lost, self._lost = self._lost, 0
            outcome, time_ns = Outcome.INTERRUPTED, self._now_ns()
            self._add(AuditEntry(time_ns=time_ns, outcome=outcome, action="audit.lost", count=lost, reason="NO_ROOM"))
        for entry in self._repeats.due(float("inf") if at_end else self._clock.monotonic()):
            self._add(entry)

    def _add(self, entry: AuditEntry) -> None:
        try:
            self._spool.add(entry)
        except (SpoolFull, OSError) as error:
            self._tell_full(error)
            self._remember(entry, was_promised=False)
        self._news.set()

    def _remember(self, entry: AuditEntry, *, was_promised: bool = True) -> None:
        if not was_promised and len(self._buffer) >= self._settings.buffer_records:
            self._lost += 1  # a refusal or a session: counted, and told as soon as there is room
            return
        self._buffer.append(entry)
        _in_memory.set(self._shipper.waiting)

    def _claim_memory(self) -> None:
        if self._shipper.waiting + self._in_flight >= self._settings.buffer_records:
            _refused.inc()
            raise Unavailable("AUDIT_UNAVAILABLE", problem="its disk and its buffer are full")
        self._in_flight += 1

    def _tell_full(self, error: Exception) -> None:
        if not self._is_full:
            self._is_full = True
            log.error("the audit spool is full", error=error, when_full=self._settings.when_full)

    def _entry(self, call: Call, named: str = "") -> AuditEntry:
        return entry_of(call, time_ns=self._now_ns(), policy_revision=self._policy.revision, named=named)

    def _now_ns(self) -> int:
        return nanoseconds(self._clock.now())
