"""Constant load on a gateway: many callers, every answer checked, every failure kept."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

Check = Callable[[Any, Any], bool]


@dataclass
class Load:
    """What the callers have sent and got so far; `first` is every request's first feature while it is set."""

    infer: Any
    model: str
    token: Callable[[], Awaitable[str]]
    check: Check
    pause_s: float = 0.0
    first: float | None = None
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    revisions: Counter[str] = field(default_factory=Counter)
    """Answers by the revision that gave them, as their trailing metadata say."""
    _bearer: str = ""
    _renew_at: float = -math.inf

    async def one(self, seed: int, *, revision: int | None = None, features: int = 64) -> None:
        """One call of one row."""
        x = np.random.default_rng(seed).normal(size=(1, features)).astype(np.float32)
        if self.first is not None:
            x[0, 0] = self.first
        request = service_pb2.ModelInferRequest(model_name=self.model, raw_input_contents=[x.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=x.shape)
        metadata = [("authorization", f"Bearer {await self._fresh()}")]
        if revision is not None:
            metadata.append(("lepton-revision", str(revision)))
        call = self.infer(request, metadata=metadata, timeout=30)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"{error.code().name}: {error.details()}")
            return
        given = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(1, -1)
        if not self.check(x, given):
            self.failures.append(f"a wrong answer: {given}")
        trailing = dict(await call.trailing_metadata() or ())
        self.revisions[str(trailing.get("lepton-deployment-revision", "")).rpartition("/")[2]] += 1
        self.answered += 1

    async def run(self, caller: int) -> None:
        """Calls for ever."""
        seed = caller << 32
        while True:
            seed += 1
            await self.one(seed)
            await asyncio.sleep(self.pause_s)

    async def _fresh(self) -> str:
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + 60
            self._bearer = await self.token()
        return self._bearer


@asynccontextmanager
async def under_load(load: Load, callers: int) -> AsyncIterator[Load]:
    """So many callers, until the block ends; calls in flight then are let finish."""
    tasks = [asyncio.create_task(load.run(caller)) for caller in range(callers)]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def stub(channel: grpc.aio.Channel) -> Any:
    """The unary inference call of a channel."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
