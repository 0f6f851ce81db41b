"""Collects what a rollout is decided by while it runs: comparisons beside the leader's work, and the gateway's load."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Final, Protocol

from chassis.clock import Clock
from chassis.logs import logger
from chassis.resources import now
from lepton.errors import LeptonError
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.rollout_pb2 import GateVerdict
from services.inference.comparing import Comparer, Side, Unanswered
from services.inference.envoy.load import Load
from services.inference.rollout.advance import Evidence
from services.inference.rollout.burn import Sample, harm, windows_s
from services.inference.rollout.gate import drifted, judge

log = logger(__name__)
_LIVE: Final = 64
_DRIFT_LIVE: Final = 32
_DRIFT_CONFIRMED: Final = 512
"""Live requests that confirm what a few have shown: of few that are looked at again and again, some fail by chance."""
_SAMPLES: Final = 480
"""So many are kept; they are taken as far apart as the long window needs."""
_LEAST_APART_S: Final = 0.2
_DRIFT_S: Final = 5.0
_RETRY_S: Final = 1.0

Sides = tuple[Side, Side]


class Loads(Protocol):
    """Where the load of revisions comes from."""

    async def load(self) -> Mapping[tuple[str, int], Load]:
        """By model and revision."""
        ...


@dataclass(slots=True)
class _Watch:
    """What is known of one rollout: of one candidate against one stable revision."""

    of: tuple[int, int]
    began_s: float
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    step: int = -1
    verdict: GateVerdict | None = None
    problem: str = ""
    drift: str = ""
    work: "asyncio.Task[None] | None" = None
    retry_s: float = 0.0
    """Not before then is tried again what has failed."""
    drift_s: float = 0.0
    """Not before then are live answers compared again."""


class RolloutWatch:
    """Watches every rollout that its leader looks at. What it knows is in memory: a new leader finds it out again."""

    def __init__(self, comparer: Comparer, loads: Loads, clock: Clock) -> None:
        self._comparer, self._loads, self._clock = comparer, loads, clock
        self._watches: dict[str, _Watch] = {}

    async def evidence(self, deployment: Deployment, sides: Sides | None) -> Evidence:
        """What is known of a deployment's rollout now; starts what is still to be found out. `sides` can be asked."""
        status = deployment.rollout
        key = status.stable_revision, status.candidate_revision
        watch = self._watches.get(deployment.name)
        if watch is None or watch.of != key:
            await self.forget(deployment.name)
            watch = self._watches[deployment.name] = _Watch(of=key, began_s=self._clock.monotonic())
        await self._sample(deployment, watch)
        if watch.work is None or watch.work.done():
            self._start(deployment, watch, sides)
        policy = deployment.strategy.rollback
        return Evidence(
            verdict=watch.verdict if watch.step == status.step else None,
            harm=harm(tuple(watch.samples), *key, policy) or ("" if policy.disabled else watch.drift),
            problem=watch.problem,
            watched_s=self._clock.monotonic() - watch.began_s,
        )

    async def forget(self, deployment: str) -> None:
        """Its rollout is over."""
        watch = self._watches.pop(deployment, None)
        if watch is not None and watch.work is not None:
            watch.work.cancel()
            await asyncio.gather(watch.work, return_exceptions=True)

    async def close(self) -> None:
        """Ends what is still being found out."""
        for name in list(self._watches):
            await self.forget(name)

    async def _sample(self, deployment: Deployment, watch: _Watch) -> None:
        moment, long_s = self._clock.monotonic(), windows_s(deployment.strategy.rollback)[0]
        apart_s = max(_LEAST_APART_S, 2 * long_s / _SAMPLES)
        if watch.samples and moment - watch.samples[-1].at_s < apart_s:
            return
        try:
            loads = await self._loads.load()
        except (OSError, ValueError, LookupError, HTTPException) as error:
            log.info("the gateway's load is not known", deployment=deployment.name, problem=str(error))
            return
        found = {revision: load for (model, revision), load in loads.items() if model == deployment.model_name}
        watch.samples.append(Sample(at_s=moment, loads=found))

    def _start(self, deployment: Deployment, watch: _Watch, sides: Sides | None) -> None:
        moment = self._clock.monotonic()
        if sides is None or moment < watch.retry_s:
            return
        status = deployment.rollout
        if status.comparing and (watch.verdict is None or watch.step != status.step):
            watch.work = asyncio.create_task(self._settle(watch, self._gate(deployment, watch, sides)))
        elif self._is_watched(deployment) and moment >= watch.drift_s:
            watch.drift_s = moment + _DRIFT_S
            watch.work = asyncio.create_task(self._settle(watch, self._drift(deployment, watch, sides)))

    def _is_watched(self, deployment: Deployment) -> bool:
        """Whether live answers that drift would be harm."""
        return not deployment.strategy.rollback.disabled and deployment.strategy.HasField("gate")

    async def _settle(self, watch: _Watch, work: Awaitable[None]) -> None:
        try:
            await work
        except (LeptonError, Unanswered, OSError) as error:
            watch.problem, watch.retry_s = str(error), self._clock.monotonic() + _RETRY_S
            log.warning("revisions not compared yet", problem=str(error))

    async def _gate(self, deployment: Deployment, watch: _Watch, sides: Sides) -> None:
        gate, step = deployment.strategy.gate, deployment.rollout.step
        comparison = await self._comparer.whole(deployment.model_name, *sides, gate.live_requests or _LIVE)
        verdict = judge(comparison, gate, now())
        verdict.step, (verdict.stable_revision, verdict.candidate_revision) = step, watch.of
        watch.verdict, watch.step, watch.problem = verdict, step, ""
        log.info("revisions compared", deployment=deployment.name, verdict=verdict.message)

    async def _drift(self, deployment: Deployment, watch: _Watch, sides: Sides) -> None:
        gate, model = deployment.strategy.gate, deployment.model_name
        comparison = await self._comparer.live(model, *sides, _DRIFT_LIVE)
        if drifted(comparison, gate):
            comparison = await self._comparer.live(model, *sides, _DRIFT_CONFIRMED)
        if comparison.answered:
            watch.drift = drifted(comparison, gate)
