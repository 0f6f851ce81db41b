"""Predictions through the gateway in the Open Inference Protocol, with NVIDIA's own stubs."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lepton.client.calls import Calls
from lepton.errors import InvalidArgument, PermissionDenied
from lepton.golden import DATATYPES, TEXT, Array, from_raw, to_raw

TIMEOUT_S: Final = 30.0
_AT_ONCE: Final = 8  # pieces of one prediction in flight, so that every replica has work
_NAMES: Final = {**{dtype: name for name, dtype in DATATYPES.items()}, np.dtype(object): TEXT}


class Predictor:
    """Sends tensors to models behind the gateway; knows each model's signature after the first request."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(calls.channel("gateway"))
        self._signatures: dict[str, tuple[Any, int]] = {}

    async def predict(
        self,
        model: str,
        inputs: Array | Mapping[str, Array],
        *,
        outputs: Sequence[str] = (),
        timeout_s: float = TIMEOUT_S,
    ) -> dict[str, Array]:
        """The outputs by name; more rows than the model takes at once are sent in pieces and joined again."""
        metadata, largest = await self._signature(model, timeout_s)
        tensors = _named(inputs, metadata)
        rows = len(next(iter(tensors.values())))
        if not largest or rows <= largest:
            return await self._infer(model, tensors, outputs, timeout_s)
        slots = asyncio.Semaphore(_AT_ONCE)

        async def piece(begin: int) -> dict[str, Array]:
            async with slots:
                part = {name: array[begin : begin + largest] for name, array in tensors.items()}
                return await self._infer(model, part, outputs, timeout_s)

        async with asyncio.TaskGroup() as tasks:
            pieces = [tasks.create_task(piece(begin)) for begin in range(0, rows, largest)]
        parts = [each.result() for each in pieces]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    async def _signature(self, model: str, timeout_s: float) -> tuple[Any, int]:
        if model not in self._signatures:
            asked = service_pb2.ModelMetadataRequest(name=model)
            metadata = await self._permitted(self._stub.ModelMetadata, asked, timeout_s)
            asked = service_pb2.ModelConfigRequest(name=model)
            config = await self._permitted(self._stub.ModelConfig, asked, timeout_s)
            self._signatures[model] = metadata, int(config.config.max_batch_size)
        return self._signatures[model]

    async def _infer(
        self, model: str, tensors: Mapping[str, Array], outputs: Sequence[str], timeout_s: float
    ) -> dict[str, Array]:
        request = service_pb2.ModelInferRequest(model_name=model)
        for name, array in tensors.items():
            request.inputs.add(name=name, datatype=_NAMES[array.dtype], shape=array.shape)
            request.raw_input_contents.append(to_raw(array))
        for name in outputs:
            request.outputs.add(name=name)
        answer = await self._permitted(self._stub.ModelInfer, request, timeout_s)
        return {
            each.name: _read(raw, each.datatype, tuple(each.shape))
            for each, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }

    async def _permitted(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return await self._calls.unary(method, request, timeout_s=timeout_s)
        except PermissionDenied:
            # The gateway reads the caller's projects from the token, which may be older than the latest grant.
            await self._calls.signed_in.renew(self._calls.signed_in.token())
            return await self._calls.unary(method, request, timeout_s=timeout_s)


def _named(inputs: Array | Mapping[str, Array], metadata: Any) -> dict[str, Array]:
    if not isinstance(inputs, Mapping):
        if len(metadata.inputs) != 1:
            names = ", ".join(each.name for each in metadata.inputs)
            raise InvalidArgument("INVALID_FIELD", fields={"inputs": f"must be given by name: {names}"})
        inputs = {metadata.inputs[0].name: inputs}
    types = {each.name: each.datatype for each in metadata.inputs}
    if set(inputs) != set(types):
        raise InvalidArgument("INVALID_FIELD", fields={"inputs": f"must be exactly: {', '.join(sorted(types))}"})
    tensors = {name: _typed(np.asarray(array), types[name]) for name, array in inputs.items()}
    if len({each.shape[:1] for each in tensors.values()}) != 1 or () in {each.shape for each in tensors.values()}:
        raise InvalidArgument("INVALID_FIELD", fields={"inputs": "must all have the same number of rows"})
    return tensors


def _typed(array: Array, datatype: str) -> Array:
    if datatype != TEXT:
        return array.astype(DATATYPES[datatype], copy=False)
    texts = np.empty(array.size, object)
    texts[:] = [each if isinstance(each, bytes) else str(each).encode() for each in array.ravel()]
    return texts.reshape(array.shape)


def _read(raw: bytes, datatype: str, shape: tuple[int, ...]) -> Array:
    """A tensor of an answer; texts as `str`."""
    array = from_raw(raw, datatype, shape)
    if array.dtype == object:
        array.ravel()[:] = [each.decode(errors="replace") for each in array.ravel()]
    return array
