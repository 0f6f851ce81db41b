"""Sends the same requests to replicas of two revisions, in turns, and collects what both answered."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import grpc
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.artifacts import ArtifactStore
from chassis.identity import Identity
from chassis.replica_channels import open_channel
from lepton.golden import Golden, from_raw, to_raw
from lepton.inference.v1.revision_pb2 import DeploymentRevision, PreparedModel
from lepton.models.package import LABELS
from lepton.names import DeploymentRevisionName
from lepton.repository import CONFIG, Manifest
from services.inference.rollout.comparison import Answer, Array, Comparison, Pair

_DEADLINE_S: Final = 30.0
_GOLDEN_ROWS: Final = 512
_TIMED: Final = 40
_WARMUP: Final = 4
_MESSAGE_BYTES: Final = 64 << 20
_OWN_FAULT: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND})
"""What a live request may have brought upon itself."""


class Unanswered(Exception):
    """The comparison could not be made: the old revision does not answer either."""


class LiveRequests(Protocol):
    """Where live requests come from."""

    def requests(self, model: str, most: int, since_s: float = 0.0) -> list[bytes]:
        """So many serialized requests of a model."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A revision that answers, and one of its replicas (`host:port`, with the name in its certificate)."""

    revision: DeploymentRevision
    endpoint: str
    server_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    answer: Answer | None
    seconds: float
    code: grpc.StatusCode = grpc.StatusCode.OK
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Request:
    message: Any
    labels: Array | None = None
    is_live: bool = False


class Comparer:
    """Compares two revisions of one deployment; reads their golden requests from the artifact store."""

    def __init__(self, artifacts: ArtifactStore, live: LiveRequests | None, identity: Identity | None = None) -> None:
        self._artifacts, self._live, self._identity = artifacts, live, identity

    async def whole(self, model: str, stable: Side, candidate: Side, live: int) -> Comparison:
        """Golden requests of both revisions and live ones, with latencies. Raises Unanswered, NotFound."""
        old, new = await self._golden(stable.revision), await self._golden(candidate.revision)
        if problem := _signature(old[0], new[0]):
            return Comparison(pairs=(), signature=problem)
        distinct = [old] if _first(stable.revision).golden == _first(candidate.revision).golden else [old, new]
        requests = [request for golden, labels in distinct for request in _requests(model, golden, labels)]
        async with self._channel(stable) as first, self._channel(candidate) as second:
            pairs = await _ask(first, second, [*requests, *self._recorded(model, live)])
            if not any(pair.stable is not None for pair in pairs):
                raise Unanswered(next((pair.problem for pair in pairs if pair.problem), "no golden requests"))
            single = [each for golden, labels in distinct for each in _requests(model, golden, labels, rows=1)]
            stable_ms, candidate_ms = await _time(first, second, single)
        return Comparison(pairs=pairs, stable_ms=stable_ms, candidate_ms=candidate_ms)

    async def live(self, model: str, stable: Side, candidate: Side, live: int) -> Comparison:
        """Live requests only."""
        async with self._channel(stable) as first, self._channel(candidate) as second:
            return Comparison(pairs=await _ask(first, second, self._recorded(model, live)))

    def _channel(self, side: Side) -> grpc.aio.Channel:
        options = (("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.use_local_subchannel_pool", 1))
        return open_channel(side.endpoint, side.server_name, self._identity, options)

    def _recorded(self, model: str, most: int) -> list[_Request]:
        found = self._live.requests(model, most) if self._live is not None else []
        return [_Request(message=service_pb2.ModelInferRequest.FromString(each), is_live=True) for each in found]

    async def _golden(self, revision: DeploymentRevision) -> tuple[Golden, Array | None]:
        """A revision's golden requests and their true labels."""
        project = DeploymentRevisionName.parse(revision.name).project
        model = _first(revision)
        manifest = Manifest.parse(await self._artifacts.read(project, model.repository))
        config = await self._artifacts.read(project, manifest.variants[-1].files[CONFIG])
        tensors = await self._artifacts.read(project, model.golden)
        golden = Golden.parse(tensors, config.decode())
        try:
            labels = load(tensors).get(LABELS)
        except SafetensorError:  # what cannot be read was refused above
            labels = None
        return golden.head(_GOLDEN_ROWS), labels


def _first(revision: DeploymentRevision) -> PreparedModel:
    """The model that clients call."""
    name = DeploymentRevisionName.parse(revision.name)
    served = f"{name.project}.{name.deployment}"
    return next((each for each in revision.models if each.name == served), revision.models[0])


def _signature(old: Golden, new: Golden) -> str:
    for kind, before, after in (("input", old.inputs, new.inputs), ("output", old.outputs, new.outputs)):
        if before.keys() != after.keys():
            return f"{kind}s are {', '.join(sorted(after))}, were {', '.join(sorted(before))}"
        for name, array in before.items():
            if (array.dtype, array.shape[1:]) != (after[name].dtype, after[name].shape[1:]):
                was, now = _described(array), _described(after[name])
                return f"{kind} {name} is {now}, was {was}"
    return ""


def _described(array: Array) -> str:
    return f"{array.dtype}{list(array.shape[1:])}"


def _requests(model: str, golden: Golden, labels: Array | None, rows: int = 0) -> list[_Request]:
    """The golden samples as requests of `rows` rows, with the true labels of each; 0 = as many as one may hold."""
    pieces = golden if not rows or not golden.max_batch else replace(golden, max_batch=rows)
    made, at = [], 0
    for piece in pieces.requests():
        known = labels[at : at + piece.rows] if labels is not None and golden.max_batch else labels
        made.append(_Request(message=_message(model, piece), labels=known))
        at += piece.rows
    return made


def _message(model: str, golden: Golden) -> Any:
    message = service_pb2.ModelInferRequest(model_name=model)
    for name, array in golden.inputs.items():
        message.inputs.add(name=name, datatype=_datatype(array), shape=array.shape)
        message.raw_input_contents.append(to_raw(array))
    for name in golden.outputs:
        message.outputs.add(name=name)
    return message


def _datatype(array: Array) -> str:
    kinds = {"b": "BOOL", "u": "UINT", "i": "INT", "f": "FP", "O": "BYTES"}
    kind = kinds[array.dtype.kind]
    return kind if kind in {"BOOL", "BYTES"} else f"{kind}{array.dtype.itemsize * 8}"


async def _ask(first: grpc.aio.Channel, second: grpc.aio.Channel, requests: Sequence[_Request]) -> list[Pair]:
    pairs = []
    for request in requests:
        old, new = await asyncio.gather(_send(first, request), _send(second, request))
        if request.is_live and old.code in _OWN_FAULT:
            continue
        pairs.append(
            Pair(
                stable=old.answer,
                candidate=new.answer,
                labels=request.labels,
                is_live=request.is_live,
                problem=new.problem or old.problem,
            )
        )
    return pairs


async def _time(
    first: grpc.aio.Channel, second: grpc.aio.Channel, requests: Sequence[_Request]
) -> tuple[list[float], list[float]]:
    """Milliseconds of the same requests, in turns, so that what else the machine does falls on both."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(_WARMUP + _TIMED if requests else 0):
        sides = ((first, taken[0]), (second, taken[1]))
        for channel, times in sides if turn % 2 else reversed(sides):
            reply = await _send(channel, requests[turn % len(requests)])
            if reply.answer is not None and turn >= _WARMUP:
                times.append(reply.seconds * 1e3)
    return taken


async def _send(channel: grpc.aio.Channel, request: _Request) -> _Reply:
    infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
    began = time.perf_counter()
    try:
        answer = await infer(request.message, timeout=_DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        problem = f"{error.code().name}: {error.details()}"
        return _Reply(answer=None, seconds=time.perf_counter() - began, code=error.code(), problem=problem)
    seconds = time.perf_counter() - began
    try:
        return _Reply(answer=_arrays(answer), seconds=seconds)
    except (ValueError, KeyError) as error:
        return _Reply(answer=None, seconds=seconds, problem=f"an output that is none: {error}")


def _arrays(answer: Any) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        array = from_raw(raw, output.datatype, list(output.shape))
        found[output.name] = array if array.dtype == object else np.ascontiguousarray(array)
    return found
