"""A scripted scheduler: the real session protocol over real mutual TLS, with a test that says what runs."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from lepton.internal.v1 import node_session_pb2 as pb
from lepton.internal.v1.node_session_pb2_grpc import NodeSessionServiceServicer
from lepton.scheduler.v1 import node_pb2, program_pb2, workload_pb2

Slice = workload_pb2.Slice
FINAL = (Slice.SUCCEEDED, Slice.FAILED, Slice.STOPPED)


@dataclass(eq=False)
class Connected:
    """An agent as the scheduler sees it."""

    node: node_pb2.Node
    outgoing: "asyncio.Queue[pb.OpenSessionResponse | None]" = field(default_factory=asyncio.Queue)


class ScriptedScheduler(NodeSessionServiceServicer):
    """Remembers all that agents say; acknowledges it unless told not to."""

    def __init__(self, ttl_s: float = 10.0) -> None:
        self.ttl_s = ttl_s
        self.acknowledges = True
        self.ahead = timedelta()  # of its clock, of what agents are told of it
        self.renames: dict[str, str] = {}  # what a node calls itself -> the name that it is given
        self.connected: dict[str, Connected] = {}
        self.hellos: list[pb.Hello] = []
        self.beats: dict[str, int] = defaultdict(int)
        self.goodbyes: list[str] = []
        self.reports: dict[tuple[str, int, int], list[Slice]] = defaultdict(list)
        self.assigned: dict[str, list[pb.StartSlices]] = defaultdict(list)
        self._changed = asyncio.Condition()
        self._sessions = 0

    async def OpenSession(
        self, requests: AsyncIterator[pb.OpenSessionRequest], context: Any
    ) -> AsyncIterator[pb.OpenSessionResponse]:
        hello = (await anext(requests)).hello
        self.hellos.append(hello)
        name = self.renames.get(hello.node.name, hello.node.name)
        agent = self.connected[name] = Connected(hello.node)
        if not hello.node.session_id:
            self.assigned[name].clear()  # nothing of it is alive
            self._sessions += 1
        session_id = hello.node.session_id or f"session-{self._sessions}"
        welcome = pb.Welcome(
            session_id=session_id, ttl_s=self.ttl_s, assignments=self._open_assignments(name), node=name
        )
        agent.outgoing.put_nowait(pb.OpenSessionResponse(welcome=welcome))
        for report in hello.slices:
            await self._store(agent, report)
        reading = asyncio.ensure_future(self._read(agent, requests))
        try:
            while (response := await agent.outgoing.get()) is not None:
                yield response
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            if self.connected.get(name) is agent:
                del self.connected[name]

    async def _read(self, agent: Connected, requests: AsyncIterator[pb.OpenSessionRequest]) -> None:
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "heartbeat":
                self.beats[agent.node.name] += 1
                if self.acknowledges:
                    ack = pb.HeartbeatAck(sequence=request.heartbeat.sequence)
                    ack.send_time.FromDatetime(datetime.now(UTC) + self.ahead)
                    agent.outgoing.put_nowait(pb.OpenSessionResponse(heartbeat_ack=ack))
            elif kind == "slice":
                await self._store(agent, request.slice)
            elif kind == "goodbye":
                self.goodbyes.append(agent.node.name)
                agent.outgoing.put_nowait(None)
            async with self._changed:
                self._changed.notify_all()

    async def _store(self, agent: Connected, report: pb.SliceReport) -> None:
        said = Slice()
        said.CopyFrom(report.slice)
        async with self._changed:
            self.reports[report.workload, report.generation, said.index].append(said)
            self._changed.notify_all()
        if self.acknowledges:
            ack = pb.SliceReportAck(
                workload=report.workload, generation=report.generation, index=said.index, state=said.state
            )
            agent.outgoing.put_nowait(pb.OpenSessionResponse(slice_ack=ack))
        if "store" in said.endpoints:
            where = pb.GangEndpoint(
                workload=report.workload, generation=report.generation, store_endpoint=said.endpoints["store"]
            )
            for other in self.connected.values():
                if other is not agent:
                    other.outgoing.put_nowait(pb.OpenSessionResponse(gang_endpoint=where))

    def _open_assignments(self, name: str) -> list[pb.StartSlices]:
        chosen = []
        for start in self.assigned[name]:
            left = pb.StartSlices()
            left.CopyFrom(start)
            del left.slices[:]
            left.slices.extend(
                piece for piece in start.slices if not self._is_final((start.workload, start.generation, piece.index))
            )
            if left.slices:
                chosen.append(left)
        return chosen

    def _is_final(self, key: tuple[str, int, int]) -> bool:
        return any(said.state in FINAL for said in self.reports[key])

    def start(
        self,
        workload: str,
        placement: Mapping[str, Sequence[int]],
        program: program_pb2.Program,
        *,
        generation: int = 1,
        **facts: Any,
    ) -> None:
        """Places a workload: the slices of each node by index."""
        size = sum(len(indices) for indices in placement.values())
        for node, indices in placement.items():
            start = pb.StartSlices(
                workload=workload,
                workload_uid=facts.get("uid", workload.rpartition("/")[2]),
                generation=generation,
                gang_size=size,
                slices=[Slice(index=index, group="worker", node=node, devices=[index]) for index in indices],
                programs={"worker": program},
                hosts_store=program.HasField("torch") and 0 in indices,
                trace_context=facts.get("trace_context", ""),
                gang_nodes=list(placement),
            )
            self.assigned[node].append(start)
            self.send(node, pb.OpenSessionResponse(start=start))

    def stop(
        self, node: str, workload: str, *, generation: int = 1, grace_s: float = 0.0, reason: str = "test"
    ) -> None:
        """Stops a workload's slices on a node."""
        self.assigned[node] = [
            start for start in self.assigned[node] if (start.workload, start.generation) != (workload, generation)
        ]
        message = pb.StopSlices(workload=workload, generation=generation, grace_s=grace_s, reason=reason)
        self.send(node, pb.OpenSessionResponse(stop=message))

    def send(self, node: str, response: pb.OpenSessionResponse) -> None:
        """Sends a message to an agent."""
        self.connected[node].outgoing.put_nowait(response)

    async def until(self, condition: Callable[[], object], deadline_s: float = 30.0) -> None:
        """Returns once the condition, looked at after everything that agents say, holds."""
        try:
            async with asyncio.timeout(deadline_s), self._changed:
                await self._changed.wait_for(lambda: bool(condition()))
        except TimeoutError:
            raise AssertionError(f"not within {deadline_s} s; reports: {dict(self.reports)}") from None

    async def reported(
        self, workload: str, index: int, *states: Slice.State.ValueType, generation: int = 1, deadline_s: float = 30.0
    ) -> Slice:
        """Waits until a slice's newest report has one of the states."""
        said = self.reports[workload, generation, index]
        await self.until(lambda: said and said[-1].state in states, deadline_s)
        return said[-1]

    async def joined(self, *nodes: str, deadline_s: float = 60.0) -> None:
        """Waits until these nodes' sessions are alive."""
        await self.until(lambda: all(node in self.connected and self.beats[node] for node in nodes), deadline_s)
