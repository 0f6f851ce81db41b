"""The RPC that shared servers open: they are told what to serve, and say what they have."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.call import current_call
from chassis.clock import Clock, wait_for_event
from chassis.kv import KV
from chassis.logs import logger
from chassis.resources import now
from lepton.errors import InvalidArgument, NotFound, PermissionDenied
from lepton.internal.v1 import model_server_pb2 as pb
from lepton.internal.v1.model_server_pb2_grpc import ModelServerServiceServicer
from lepton.names import WorkloadName
from services.inference.shared.board import SharedBoard
from services.inference.shared.registry import SERVERS, seconds, shared_models

log = logger(__name__)
USE_WRITTEN_S: Final = 30.0
"""A later use is written once it is so much later: calls never cost a write each."""
_KNOWN_S: Final = 10.0
"""How soon the scheduler's word of a slice must have come."""
_FAILURES_KEPT: Final = 8


class ModelServers(ModelServerServiceServicer):
    """lepton.internal.v1.ModelServerService."""

    def __init__(self, kv: KV, board: SharedBoard, clock: Clock) -> None:
        self._shared, self._board, self._clock = shared_models(kv), board, clock

    async def ServeModels(
        self, requests: AsyncIterator[pb.ServeModelsRequest], context: Any
    ) -> AsyncIterator[pb.ServeModelsResponse]:
        """One server's session, for as long as it lasts."""
        hello = await self._admit(await anext(requests, pb.ServeModelsRequest()))
        # What it has already, from before the connection broke or its process was replaced, is its to keep.
        first = await anext(requests, None)
        if first is None:
            return
        await self._take(hello, first.report, adopts=True)
        log.info("shared server connected", workload=hello.workload, slice=hello.slice, endpoint=hello.endpoint)
        reading = asyncio.create_task(self._read(hello, requests))
        try:
            sent: pb.ServeModelsResponse | None = None
            while not reading.done():
                changed = self._board.changed
                desired = self._desired(hello.endpoint)
                if desired != sent:
                    yield desired
                    sent = desired
                waiting = asyncio.ensure_future(changed.wait())
                await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _admit(self, message: pb.ServeModelsRequest) -> pb.ModelServerHello:
        """Raises PermissionDenied for whoever is not the agent of the slice's node."""
        hello = message.hello
        name = WorkloadName.parse(hello.workload, "hello.workload")
        if name.workload != SERVERS or not hello.endpoint:
            raise InvalidArgument("INVALID_FIELD", fields={"hello": "names no slice of a project's shared servers"})
        call = current_call()
        peer = call.peer if call is not None else ""
        deadline = self._clock.monotonic() + _KNOWN_S
        while True:
            changed = self._board.changed
            node = self._node(hello)
            if node and peer.endswith(f"/agent/{node.rpartition('/')[2]}"):
                return hello
            left_s = deadline - self._clock.monotonic()
            if node or left_s <= 0:
                raise PermissionDenied("NODE_IDENTITY_MISMATCH", peer=peer, node=node or hello.workload)
            await wait_for_event(changed, left_s, self._clock)

    def _node(self, hello: pb.ModelServerHello) -> str:
        workload = self._board.workloads.get(hello.workload)
        slices = workload.slices if workload is not None else ()
        return next((piece.node for piece in slices if piece.index == hello.slice), "")

    async def _read(self, hello: pb.ModelServerHello, requests: AsyncIterator[pb.ServeModelsRequest]) -> None:
        async for request in requests:
            await self._take(hello, request.report)

    def _desired(self, endpoint: str) -> pb.ServeModelsResponse:
        desired = pb.ServeModelsResponse()
        for id_, model in sorted(self._board.models.items()):
            if any(place.endpoint == endpoint for place in model.placements):
                served = model.workload.groups[0].program.triton.models[0]
                desired.models.add(id=id_, model=served)
        return desired

    async def _take(self, hello: pb.ModelServerHello, report: pb.ModelServerReport, *, adopts: bool = False) -> None:
        """Writes down what has changed of the models of one server, and nothing else."""
        node = self._node(hello)
        project = WorkloadName.parse(hello.workload).project
        for said in report.models:
            model = self._board.models.get(said.id)
            if model is None or WorkloadName.parse(said.id).project != project:
                continue

            def note(current: pb.SharedModel, said: pb.ModelReport = said) -> None:
                _note(current, hello.endpoint, node, said, now(), adopts=adopts)

            wished = pb.SharedModel()
            wished.CopyFrom(model)
            note(wished)
            if wished == model:
                continue  # most reports say nothing new: they cost no read
            try:
                await self._shared.change(WorkloadName.parse(said.id), note)
            except NotFound:
                continue  # its owner has just taken it away


def _note(
    model: pb.SharedModel, endpoint: str, node: str, said: pb.ModelReport, stamp: Timestamp, *, adopts: bool
) -> None:
    """Brings a model to what one of its servers says of it."""
    place = next((each for each in model.placements if each.endpoint == endpoint), None)
    if place is None and adopts and model.wanted and said.state != pb.ModelReport.LOADING:
        # It has it from before; or the process that hung over it has been replaced by this one, which must not try.
        if said.state == pb.ModelReport.FAILED and any(each.endpoint == endpoint for each in model.failures):
            return
        place = model.placements.add(endpoint=endpoint, node=node, assign_time=stamp)
    if place is None:
        return  # it is being unloaded
    if said.state == pb.ModelReport.LOADED:
        if not place.HasField("load_time"):
            place.load_time.CopyFrom(stamp)
            place.engine = said.engine
            place.is_mutual_tls = said.is_mutual_tls
            model.message = ""
            model.memory_bytes = max(said.memory_bytes, 1)
        _note_use(model, said, stamp)
    elif said.state == pb.ModelReport.FAILED:
        model.placements.remove(place)
        model.failures.add(endpoint=endpoint, time=stamp, problem=said.problem[:1000])
        del model.failures[:-_FAILURES_KEPT]
        model.message = f"{endpoint}: {said.problem[:1000]}"
    elif place.HasField("load_time"):
        place.ClearField("load_time")  # its process is another one, which has not loaded it yet


def _note_use(model: pb.SharedModel, said: pb.ModelReport, stamp: Timestamp) -> None:
    used_s = seconds(stamp) - said.idle_s
    if said.idle_s >= 0 and used_s - seconds(model.last_use_time) > USE_WRITTEN_S:
        model.last_use_time.FromNanoseconds(int(used_s * 1e9))
    is_other = abs(said.calls_per_minute - model.calls_per_minute) > max(model.calls_per_minute, 100.0) / 2
    if is_other and len(model.placements) == 1:
        model.calls_per_minute = said.calls_per_minute
    elif is_other and said.calls_per_minute * len(model.placements) > model.calls_per_minute:
        model.calls_per_minute = said.calls_per_minute * len(model.placements)
