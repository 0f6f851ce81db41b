"""The slices of this node: started, adopted, stopped and reported as the scheduler says."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from chassis import telemetry
from chassis.logs import logger
from lepton.errors import InvalidArgument, LeptonError
from lepton.internal.v1 import node_session_pb2 as pb
from lepton.scheduler.v1 import workload_pb2
from services.agent.order import SliceKey, SliceOrder, read_orders
from services.agent.outbox import Outbox
from services.agent.runner import Ending, Runner, SliceControl, Stop

log = logger(__name__)

Slice = workload_pb2.Slice
STALE: Final = "stale"
_REMEMBERED: Final = 2000  # ended slices and workloads that a late message may still be about


@dataclass(slots=True, eq=False)
class _Entry:
    order: SliceOrder
    report: pb.SliceReport
    span: telemetry.Span | None
    stop: Stop = field(default_factory=Stop)
    task: asyncio.Task[Ending] | None = None
    is_unwanted: bool = False  # nobody wants to hear how it ends

    @property
    def is_live(self) -> bool:
        return self.task is not None and not self.task.done()


class Slices:
    """Everything that runs here; leaving the block kills it."""

    def __init__(self, *, node: str, runners: Mapping[str, Runner], outbox: Outbox) -> None:
        self.node = node  # its whole name, once the scheduler has told the pool
        self._runners, self._outbox = runners, outbox
        self._entries: dict[SliceKey, _Entry] = {}
        self._of: dict[str, dict[SliceKey, _Entry]] = {}  # the same, by workload
        self._unended: dict[SliceKey, _Entry] = {}
        self._ended_order: dict[SliceKey, None] = {}  # the oldest first
        self._newest: dict[str, int] = {}  # workload uid -> generation

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        live = self._live()
        self._cancel(live)
        await self._ended(live)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs."""
        return not self._live()

    def known(self) -> list[pb.SliceReport]:
        """What a new stream begins with: the slices that run, and the ended ones that are not acknowledged."""
        reports = {entry.order.key: entry.report for entry in self._live()} | self._outbox.take_all()
        return list(reports.values())

    def start(self, message: pb.StartSlices) -> None:
        """Start what does not run yet; the same message may come many times."""
        try:
            orders = read_orders(message, self.node)
        except InvalidArgument as error:
            log.error("an order that cannot be read", workload=message.workload, why=str(error))
            return
        if message.generation < self._newest.get(message.workload_uid, 0):
            return
        self._newest[message.workload_uid] = message.generation
        for order in orders:
            entry = self._entries.get(order.key)
            if entry is None:
                self._adopt_or_launch(order)
            elif entry.is_live:
                if message.store_endpoint:
                    entry.order.gang.learn_store(message.store_endpoint)
            else:
                self._outbox.put(order.key, entry.report)  # an ended slice is never started again

    def reconcile(self, assignments: Iterable[pb.StartSlices]) -> None:
        """A session has begun: run exactly what is listed."""
        listed = set[SliceKey]()
        for message in assignments:
            self.start(message)
            listed |= {
                SliceKey(workload_uid=message.workload_uid, generation=message.generation, index=piece.index)
                for piece in message.slices
            }
        for entry in self._live():
            if entry.order.key not in listed:
                self._stop(entry, 0.0, "not assigned any more")

    def stop(self, message: pb.StopSlices) -> None:
        """Stop slices of a generation, all of them when none is named."""
        entries = self._find(message.workload, message.generation)
        if message.reason == STALE:
            for unwanted in entries.values():
                unwanted.is_unwanted = True
                self._outbox.drop(unwanted.order.key)
            self._cancel(entries.values())
            return
        for index in message.slices or list(entries):
            entry = entries.get(index)
            if entry is None:
                unknown = Slice(index=index, state=Slice.STOPPED, message="it was never started here")
                report = pb.SliceReport(workload=message.workload, generation=message.generation, slice=unknown)
                self._outbox.put(SliceKey(workload_uid="", generation=message.generation, index=index), report)
            elif entry.is_live:
                self._stop(entry, message.grace_s, message.reason)
            else:
                self._outbox.put(entry.order.key, entry.report)

    def learn_store(self, message: pb.GangEndpoint) -> None:
        """The gang's store is known now."""
        for entry in self._find(message.workload, message.generation).values():
            entry.order.gang.learn_store(message.store_endpoint)

    def acknowledge(self, ack: pb.SliceReportAck) -> None:
        """A report is stored."""
        entry = self._find(ack.workload, ack.generation).get(ack.index)
        uid = entry.order.key.workload_uid if entry is not None else ""
        self._outbox.acknowledge(SliceKey(workload_uid=uid, generation=ack.generation, index=ack.index), ack.state)

    async def stop_all(self, grace_s: float, reason: str) -> None:
        """Stop everything in good order; returns once nothing runs."""
        live = self._live()
        for entry in live:
            self._stop(entry, grace_s, reason)
        await self._ended(live)

    async def kill_all(self) -> None:
        """Kill everything at once and forget that it ever was; returns once nothing runs."""
        live = self._live()
        for entry in self._entries.values():
            entry.is_unwanted = True
        self._cancel(live)
        await self._ended(live)
        for each in (self._entries, self._of, self._unended, self._ended_order, self._newest):
            each.clear()
        self._outbox.clear()

    def _adopt_or_launch(self, order: SliceOrder) -> None:
        for entry in list(self._of.get(order.gang.workload, {}).values()):
            if entry.is_live and not entry.stop.is_asked and order.continues(entry.order):
                former = entry.order.key
                self._forget(former)
                entry.order = order
                entry.report.generation = order.key.generation
                self._keep(entry)
                self._outbox.put(order.key, entry.report)
                log.info("slice adopted", workload=order.gang.workload, index=order.key.index, former=former.generation)
                return
        self._launch(order)

    def _launch(self, order: SliceOrder) -> None:
        above = telemetry.parse(order.gang.trace_context)
        facts: dict[str, str | bool | int | float] = {
            "lepton.workload": order.gang.workload,
            "lepton.generation": order.key.generation,
            "lepton.slice": order.key.index,
            "lepton.node": order.node,
        }
        span = telemetry.start_span("agent.start_slice", above, attributes=facts) if above is not None else None
        report = pb.SliceReport(
            workload=order.gang.workload, generation=order.key.generation, slice=Slice(index=order.key.index)
        )
        entry = _Entry(order, report, span)
        self._keep(entry)
        self._report(entry, Slice.STARTING)
        trace = span.trace if span is not None else above
        # Not in a task group: what goes wrong with one slice must not end the others.
        entry.task = asyncio.create_task(self._run(entry, trace))
        entry.task.add_done_callback(lambda task: self._end(entry, task))
        log.info("slice starting", workload=order.gang.workload, generation=order.key.generation, index=order.key.index)

    async def _run(self, entry: _Entry, trace: telemetry.Trace | None) -> Ending:
        telemetry.enter_trace(trace)
        runner = self._runners.get(entry.order.program.WhichOneof("kind") or "")
        if runner is None:
            return Ending(state=Slice.FAILED, message="this node cannot run this kind of program")
        control = SliceControl(
            stop=entry.stop,
            traceparent=trace.traceparent if trace is not None else "",
            report=lambda state, **facts: self._report(entry, state, **facts),
        )
        try:
            return await runner.run(entry.order, control)
        except (LeptonError, OSError) as error:
            return Ending(state=Slice.FAILED, message=f"cannot start: {error}")

    def _report(
        self,
        entry: _Entry,
        state: Slice.State.ValueType | None,
        *,
        message: str = "",
        endpoints: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        said = entry.report.slice
        if state is not None:
            said.state, said.message = state, message
        for name, endpoint in (endpoints or {}).items():
            said.endpoints[name] = endpoint
        for name, digest in (outputs or {}).items():
            said.outputs[name] = digest
        for name, fact in (facts or {}).items():
            said.facts[name] = fact
        if entry.span is not None and state not in (None, Slice.STARTING):
            entry.span.end()
            entry.span = None
        if not entry.is_unwanted:
            self._outbox.put(entry.order.key, entry.report)

    def _stop(self, entry: _Entry, grace_s: float, reason: str) -> None:
        is_prepared = entry.report.slice.state != Slice.STARTING
        entry.stop.ask(grace_s, reason)
        if not is_prepared and entry.task is not None:
            entry.task.cancel()

    def _cancel(self, entries: Iterable[_Entry]) -> None:
        for entry in entries:
            entry.stop.ask(0.0, "killed")
            if entry.task is not None:
                entry.task.cancel()

    def _end(self, entry: _Entry, task: asyncio.Task[Ending]) -> None:
        if task.cancelled():
            ending = Ending(state=Slice.STOPPED, message=entry.stop.reason)
        elif (bug := task.exception()) is not None:
            log.error("slice could not be attended", error=bug, workload=entry.order.gang.workload)
            ending = Ending(state=Slice.FAILED, message=f"the node's agent failed: {type(bug).__name__}")
        else:
            ending = task.result()
        if entry.span is not None and ending.state == Slice.FAILED:
            entry.span.fail("SLICE_FAILED")
        entry.report.slice.exit_code = ending.exit_code
        if ending.failure is not None:
            entry.report.slice.failure.CopyFrom(ending.failure)
        self._report(entry, ending.state, message=ending.message[:4000])
        log.info(
            "slice ended",
            workload=entry.order.gang.workload,
            generation=entry.order.key.generation,
            index=entry.order.key.index,
            state=Slice.State.Name(ending.state),
            why=ending.message,
        )
        self._remember_as_ended(entry)

    async def _ended(self, entries: Iterable[_Entry]) -> None:
        await asyncio.gather(*(entry.task for entry in entries if entry.task), return_exceptions=True)

    def _keep(self, entry: _Entry) -> None:
        key, workload = entry.order.key, entry.order.gang.workload
        self._entries[key] = self._unended[key] = self._of.setdefault(workload, {})[key] = entry

    def _forget(self, key: SliceKey) -> None:
        workload = self._entries.pop(key).order.gang.workload
        self._unended.pop(key, None)
        self._ended_order.pop(key, None)
        del self._of[workload][key]
        if not self._of[workload]:
            del self._of[workload]
        self._outbox.drop(key)

    def _find(self, workload: str, generation: int) -> dict[int, _Entry]:
        found = self._of.get(workload, {}).items()
        return {key.index: entry for key, entry in found if key.generation == generation}

    def _live(self) -> list[_Entry]:
        return [entry for entry in self._unended.values() if entry.is_live]

    def _remember_as_ended(self, entry: _Entry) -> None:
        """Keep what late messages may be about, and no more than that."""
        if self._unended.pop(entry.order.key, None) is not None:
            self._ended_order[entry.order.key] = None
        while len(self._ended_order) > _REMEMBERED:
            self._forget(next(iter(self._ended_order)))
        while len(self._newest) > _REMEMBERED:
            del self._newest[next(iter(self._newest))]
