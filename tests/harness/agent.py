"""A scripted node agent: speaks the real session protocol to a real scheduler, and runs only what the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from chassis.clock import SystemClock
from chassis.clock_skew import ClockSkew
from lepton.errors import LeptonError
from lepton.internal.v1 import node_session_pb2 as pb
from lepton.internal.v1.node_session_pb2_grpc import NodeSessionServiceStub
from lepton.scheduler.v1 import node_pb2, program_pb2, resources_pb2, workload_pb2

Slice = workload_pb2.Slice
FINAL = frozenset({Slice.SUCCEEDED, Slice.FAILED, Slice.STOPPED, Slice.LOST})
GiB = 1 << 30
Key = tuple[str, int]  # workload, index


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """A slice on this node."""

    workload: str
    uid: str
    generation: int
    slice: workload_pb2.Slice
    program: program_pb2.Program
    started: int = 1  # how often a process was begun for it
    store: str = ""
    gang_nodes: Sequence[str] = ()
    gang_size: int = 0


@dataclass(eq=False)
class ScriptedAgent:
    """A node. Slices report RUNNING when they are started (`on_start` changes that) and end when the test says so."""

    node: str  # pools/{pool}/nodes/{node}
    devices: int = 2
    cpu_milli: int = 8000
    memory_bytes: int = 16 * GiB
    model: str = "virtual"
    labels: Mapping[str, str] = field(default_factory=dict)
    heartbeat_s: float = 0.1
    cpu_used_milli: int = 0
    memory_used_bytes: int = 0
    on_start: Callable[[Running], int] = lambda _: Slice.RUNNING
    session_id: str = ""
    ttl_s: float = 0.0
    slices: dict[Key, Running] = field(default_factory=dict)
    starts: list[tuple[str, int, int]] = field(default_factory=list)  # workload, generation, index: processes begun
    adopted: list[tuple[str, int, int]] = field(default_factory=list)
    stops: list[pb.StopSlices] = field(default_factory=list)
    acks: list[pb.SliceReportAck] = field(default_factory=list)
    beats_acked: int = 0
    skew: ClockSkew = field(default_factory=lambda: ClockSkew("scheduler", SystemClock()))
    error: LeptonError | None = None  # why the last stream ended
    is_beating: bool = True
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _outgoing: "asyncio.Queue[pb.OpenSessionRequest | None]" = field(default_factory=asyncio.Queue)
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    _unacked: dict[tuple[str, int, int], pb.SliceReport] = field(default_factory=dict)

    async def connect(self, channel: Any) -> Self:
        """Open a stream, keeping the session if there is one, and wait for the welcome."""
        await self.disconnect()
        self.error = None
        self._outgoing = asyncio.Queue()
        pool, _, node_id = self.node.removeprefix("pools/").partition("/nodes/")
        hello = node_pb2.Node(
            name=f"pools/{pool}/nodes/{node_id}",
            address="127.0.0.1",
            capacity=resources_pb2.Resources(cpu_milli=self.cpu_milli, memory_bytes=self.memory_bytes),
            devices=[resources_pb2.Device(index=at, model=self.model) for at in range(self.devices)],
            labels=self.labels,
            session_id=self.session_id,
            agent_version="scripted",
        )
        known = [self._report_of(each) for each in self.slices.values()]
        self._say(hello=pb.Hello(node=hello, slices=known))
        welcomed = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._listen(channel, self._outgoing, welcomed)),
            asyncio.create_task(self._beat(welcomed)),
        ]
        ready = asyncio.create_task(welcomed.wait())
        await asyncio.wait({ready, self._tasks[0]}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        ready.cancel()
        if self.error is not None:
            raise self.error
        assert welcomed.is_set(), "no welcome"
        return self

    async def disconnect(self) -> None:
        """The connection breaks: no goodbye; slices go on running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def die(self) -> None:
        """The machine is gone: all slices with it; what connects next is a new session."""
        await self.disconnect()
        self.slices.clear()
        self._unacked.clear()
        self.session_id = ""

    async def leave(self) -> None:
        """Say goodbye, everything stopped."""
        for running in list(self.slices.values()):
            self.end(running, Slice.STOPPED)
        await self.until(lambda: not self._unacked)
        self._say(goodbye=pb.Goodbye())
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._tasks[0]), 10)
        await self.die()

    async def until(self, condition: Callable[[], object], deadline_s: float = 30.0) -> None:
        """Wait until something the scheduler has said makes it true."""
        async with asyncio.timeout(deadline_s), self.changed:
            await self.changed.wait_for(lambda: bool(condition()))

    def running(self, workload: str) -> list[Running]:
        """The slices of a workload here that have not ended, by index."""
        here = [each for (name, _), each in self.slices.items() if name == workload]
        return sorted((each for each in here if each.slice.state not in FINAL), key=lambda each: each.slice.index)

    def end(self, running: Running, state: int = Slice.SUCCEEDED, *, message: str = "", exit_code: int = 0) -> None:
        """A slice ends."""
        running.slice.exit_code = exit_code
        self.report(running, state, message=message)

    def report(
        self, running: Running, state: int, *, message: str = "", endpoints: Mapping[str, str] | None = None
    ) -> None:
        """Say where a slice stands."""
        running.slice.state = workload_pb2.Slice.State.ValueType(state)
        running.slice.message = message
        running.slice.endpoints.update(endpoints or {})
        report = self._report_of(running)
        self._unacked[running.workload, running.generation, running.slice.index] = report
        self._say(slice=report)

    def say(self, workload: str, generation: int, slice_: workload_pb2.Slice) -> None:
        """Send any report, true or not."""
        self._say(slice=pb.SliceReport(workload=workload, generation=generation, slice=slice_))

    def _report_of(self, running: Running) -> pb.SliceReport:
        copy = workload_pb2.Slice()
        copy.CopyFrom(running.slice)
        return pb.SliceReport(workload=running.workload, generation=running.generation, slice=copy)

    def _say(self, **message: Any) -> None:
        self._outgoing.put_nowait(pb.OpenSessionRequest(**message))

    async def _beat(self, welcomed: asyncio.Event) -> None:
        await welcomed.wait()
        sequence = 0
        while True:
            if self.is_beating:
                sequence += 1
                beat = pb.Heartbeat(
                    sequence=sequence, cpu_used_milli=self.cpu_used_milli, memory_used_bytes=self.memory_used_bytes
                )
                self._say(heartbeat=beat)
            await asyncio.sleep(self.heartbeat_s)

    async def _listen(
        self, channel: Any, outgoing: "asyncio.Queue[pb.OpenSessionRequest | None]", welcomed: asyncio.Event
    ) -> None:
        async def requests() -> AsyncIterator[pb.OpenSessionRequest]:
            while (message := await outgoing.get()) is not None:
                yield message

        try:
            async for message in NodeSessionServiceStub(channel).OpenSession(requests()):
                self._hear(message)
                if message.HasField("welcome"):
                    welcomed.set()
                async with self.changed:
                    self.changed.notify_all()
        except LeptonError as error:
            self.error = error
        finally:
            async with self.changed:
                self.changed.notify_all()

    def _hear(self, message: pb.OpenSessionResponse) -> None:
        match message.WhichOneof("message"):
            case "welcome":
                self._welcome(message.welcome)
            case "heartbeat_ack":
                self.beats_acked += 1
                self.skew.note(message.heartbeat_ack.send_time)
            case "slice_ack":
                ack = message.slice_ack
                self.acks.append(ack)
                self._unacked.pop((ack.workload, ack.generation, ack.index), None)
            case "start":
                self._start(message.start)
            case "stop":
                self._stop(message.stop)
            case "gang_endpoint":
                for running in self.running(message.gang_endpoint.workload):
                    if running.generation == message.gang_endpoint.generation:
                        running.store = message.gang_endpoint.store_endpoint

    def _welcome(self, welcome: pb.Welcome) -> None:
        self.session_id, self.ttl_s = welcome.session_id, welcome.ttl_s
        self.node = welcome.node or self.node
        for start in welcome.assignments:
            self._start(start)
        wanted = {(start.workload, start.generation) for start in welcome.assignments}
        for running in list(self.slices.values()):
            if running.slice.state not in FINAL and (running.workload, running.generation) not in wanted:
                self.end(running, Slice.STOPPED)

    def _start(self, start: pb.StartSlices) -> None:
        for assigned in start.slices:
            key = (start.workload, assigned.index)
            program = start.programs[assigned.group]
            known = self.slices.get(key)
            if known is not None and known.generation >= start.generation and known.uid == start.workload_uid:
                continue
            if known is not None and known.slice.state not in FINAL and _is_same(known, start, assigned, program):
                known.generation = start.generation
                self.adopted.append((start.workload, start.generation, assigned.index))
                self.report(known, known.slice.state)
                continue
            running = Running(
                workload=start.workload,
                uid=start.workload_uid,
                generation=start.generation,
                slice=workload_pb2.Slice(index=assigned.index, group=assigned.group, devices=assigned.devices),
                program=program,
                store=start.store_endpoint,
                gang_nodes=list(start.gang_nodes),
                gang_size=start.gang_size,
            )
            self.slices[key] = running
            self.starts.append((start.workload, start.generation, assigned.index))
            if start.hosts_store and assigned.index == 0:
                running.slice.endpoints["store"] = f"127.0.0.1:{29500 + len(self.starts)}"
            state = self.on_start(running)
            if state:
                self.report(running, state)

    def _stop(self, stop: pb.StopSlices) -> None:
        self.stops.append(stop)
        found = False
        for key, running in list(self.slices.items()):
            if running.workload != stop.workload or running.generation != stop.generation:
                continue
            found = True
            if stop.reason == "stale":
                del self.slices[key]
                self._unacked.pop((stop.workload, stop.generation, key[1]), None)
            elif running.slice.state not in FINAL:
                self.end(running, Slice.STOPPED, message=stop.reason)
        if not found and stop.reason != "stale":
            for index in stop.slices:
                self.say(stop.workload, stop.generation, workload_pb2.Slice(index=index, state=Slice.STOPPED))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()


def _is_same(known: Running, start: pb.StartSlices, assigned: workload_pb2.Slice, program: program_pb2.Program) -> bool:
    return (
        known.uid == start.workload_uid
        and known.slice.group == assigned.group
        and list(known.slice.devices) == list(assigned.devices)
        and known.program.SerializeToString(deterministic=True) == program.SerializeToString(deterministic=True)
    )
