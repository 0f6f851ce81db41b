"""A load that goes up and down on a deployment that scales: what was asked for, what there was, how callers fared."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from tritonclient.grpc import service_pb2

from lepton.client import AsyncClient
from lepton.errors import DeadlineExceeded
from lepton.inference.v1.autoscaling_pb2 import Autoscaling
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.serving_options_pb2 import ServingOptions
from tests.harness import rollout_models as models
from tests.harness import wait

PATIENCE_S = 120.0


def wish(**changes: Any) -> Autoscaling:
    """One to four replicas by calls in flight, with windows of seconds where a fleet would have minutes."""
    return Autoscaling(
        **{
            "max_replicas": 4,
            "targets": Autoscaling.Targets(in_flight=3),
            "look_back": Duration(seconds=4),
            "panic_window": Duration(seconds=2),
            "down_stabilization": Duration(seconds=6),
            "scale_to_zero_delay": Duration(seconds=8),
            "cold_start_patience": Duration(seconds=60),
            **changes,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One call: when it began, how long it took, and how it failed, if it did."""

    at_s: float
    took_s: float
    failure: str


@dataclass(kw_only=True)
class Phase:
    """One step of the load."""

    name: str
    callers: int
    began_s: float = 0.0
    took_s: float = 0.0
    calls: list[Answered] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Its figures."""
        took_ms = sorted(1000 * each.took_s for each in self.calls)
        return {
            "phase": self.name,
            "callers": self.callers,
            "began_s": round(self.began_s, 2),
            "took_s": round(self.took_s, 2),
            "calls": len(self.calls),
            "errors": sum(bool(each.failure) for each in self.calls),
            "p50_ms": round(took_ms[len(took_ms) // 2], 2) if took_ms else None,
            "p99_ms": round(took_ms[min(len(took_ms) - 1, int(0.99 * len(took_ms)))], 2) if took_ms else None,
            "max_ms": round(took_ms[-1], 2) if took_ms else None,
        }


class ScalingTrace:
    """Calls a deployment with so many callers at once, and writes down what becomes of its replicas."""

    def __init__(self, client: AsyncClient, deployment: str, infer: Any, model: str) -> None:
        self._client, self._deployment, self._infer, self._model = client, deployment, infer, model
        self._began = time.monotonic()
        self.replicas: list[tuple[float, int, int]] = []
        """Seconds, desired, ready: at every change."""
        self.why: list[str] = []
        self.phases: list[Phase] = []

    async def follow(self) -> None:
        """Writes down every change of the deployment, until it is cancelled."""
        async for current in self._client.deployments.watch(self._deployment):
            now = (current.scaling.desired, current.ready_replicas)
            if not self.replicas or self.replicas[-1][1:] != now:
                self.replicas.append((round(self._now(), 2), *now))
            if current.scaling.why not in self.why[-1:]:
                self.why.append(current.scaling.why)

    async def phase(
        self, name: str, callers: int, until: Callable[[Deployment], bool], *, least_calls: int = 0
    ) -> Phase:
        """So many callers until the deployment is as wished, and so many calls are answered."""
        phase = Phase(name=name, callers=callers, began_s=self._now())
        self.phases.append(phase)
        tasks = [asyncio.create_task(self._call(phase, number)) for number in range(callers)]
        try:
            try:
                await self._client.deployments.wait(self._deployment, until=until, timeout_s=PATIENCE_S)
            except DeadlineExceeded as error:
                raise AssertionError(f"{name}: not as wished: {self.report()}") from error
            await wait.until(lambda: len(phase.calls) >= least_calls, PATIENCE_S)
        finally:
            self._ending = True
            await asyncio.gather(*tasks)
            self._ending = False
            phase.took_s = self._now() - phase.began_s
        return phase

    def report(self) -> dict[str, Any]:
        """All of it."""
        failures = sorted({each.failure for phase in self.phases for each in phase.calls if each.failure})
        return {
            "phases": [each.report() for each in self.phases],
            "errors": failures,
            "replicas": [{"at_s": at, "desired": desired, "ready": ready} for at, desired, ready in self.replicas],
            "why": self.why,
        }

    def _now(self) -> float:
        return time.monotonic() - self._began

    _ending = False

    async def _call(self, phase: Phase, number: int) -> None:
        seed = number << 32
        while not self._ending:
            seed += 1
            at_s = self._now()
            failure = await self.one(seed)
            phase.calls.append(Answered(at_s=at_s, took_s=self._now() - at_s, failure=failure))

    async def one(self, seed: int, timeout_s: float = 60.0) -> str:
        """One call of one row; how it failed, empty when it did not."""
        x = np.random.default_rng(seed).normal(size=(1, 64)).astype(np.float32)
        request = service_pb2.ModelInferRequest(model_name=self._model, raw_input_contents=[x.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=x.shape)
        metadata = [("authorization", f"Bearer {await self._client.fresh_access_token()}")]
        try:
            answer = await self._infer(request, metadata=metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        given = np.frombuffer(answer.raw_output_contents[0], np.float32)
        return "" if int(given.argmax()) == int(models.answers(x)[0].argmax()) else f"a wrong answer: {given}"


async def play(trace: ScalingTrace) -> dict[str, Any]:
    """One caller, ten, one, nobody, and ten at once: what the figures are."""

    def has(count: int) -> Callable[[Deployment], bool]:
        return lambda current: current.scaling.desired == count == current.ready_replicas

    async with _following(trace):
        await trace.phase("one", 1, has(1), least_calls=50)
        await trace.phase("ten", 10, has(4), least_calls=1000)
        await trace.phase("one again", 1, has(1), least_calls=50)
        await trace.phase("nobody", 0, has(0))
        burst = await trace.phase("burst", 10, has(4), least_calls=1000)
    first = [each for each in burst.calls if each.at_s - burst.began_s < 0.5 and each.took_s > 0.5]
    return {**trace.report(), "cold_start_s": round(max((each.took_s for each in first), default=0.0), 2)}


@asynccontextmanager
async def _following(trace: ScalingTrace) -> AsyncIterator[None]:
    task = asyncio.create_task(trace.follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def deploy(client: AsyncClient, deployment: str, wished: Autoscaling) -> Deployment:
    """The good model of the rollouts' tests, with one replica that answers.

    Requests wait a tenth of a second for others to join, so that callers, not the machine, decide what is in flight.
    """
    store: dict[str, bytes] = {}
    manifest = models.package(models.good(), store)
    for content in (*store.values(), manifest):
        uploaded = await client.artifacts.upload(content)
    version = await client.models.register(deployment, uploaded.digest)
    serving = ServingOptions(max_queue_delay_us=100_000)
    await client.deployments.create(deployment, version.name, replicas=1, autoscaling=wished, serving=serving)
    return await client.deployments.wait(
        deployment, until=lambda current: current.ready_replicas >= 1, timeout_s=PATIENCE_S
    )
