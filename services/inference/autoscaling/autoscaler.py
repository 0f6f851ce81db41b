"""Carries the decision out: as long as it leads, it writes how many replicas each deployment should have."""

import asyncio
from contextlib import aclosing
from typing import Final

from chassis.clock import Clock, wait_for_event
from chassis.controller import WorkloadFeed
from chassis.election import Election, Leadership
from chassis.kv import KV, Compare, Delete, KVError, Op, follow
from chassis.logs import logger
from chassis.resources import now as wall_now
from lepton.errors import LeptonError
from lepton.inference.v1.autoscaling_pb2 import ScalingDecision
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.internal.v1.gateway_load_pb2 import GatewayLoad
from lepton.names import DeploymentName
from lepton.scheduler.v1.scheduler_service_pb2 import WatchWorkloadsResponse
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference import sizing
from services.inference.autoscaling.decision import Decision, Memory, decide
from services.inference.autoscaling.keys import LOADS, WAKES, marked, wake_key
from services.inference.autoscaling.load_board import LoadBoard
from services.inference.autoscaling.proposals import Proposal
from services.inference.autoscaling.sample import Sample
from services.inference.autoscaling.seasons import Seasons
from services.inference.autoscaling.settings import AutoscalingSettings
from services.inference.autoscaling.spec import Spec, spec_of
from services.inference.autoscaling.triton_metrics import Queueing, ReplicaQueues
from services.inference.serving import SERVING
from services.inference.store import DEPLOYMENTS, deployment_name_of, deployments

log = logger(__name__)
_KEPT_DECISIONS: Final = 20
_SILENT: Final = 4.0
"""A gateway that has not told its load for so many times its interval counts as silent."""
_NOTHING: Final = Queueing(queue_delay_s=None, busy=None)
_NO_FLOOR: Final = Proposal(count=0, why="")


class Autoscaler:
    """Decides for all deployments, every `settings.every_s` and whenever one is called in its sleep."""

    def __init__(
        self, kv: KV, election: Election, feed: WorkloadFeed, clock: Clock, settings: AutoscalingSettings
    ) -> None:
        self._kv, self._election, self._feed, self._clock, self._settings = kv, election, feed, clock, settings
        self._deployments = deployments(kv)
        self._seasons = Seasons(
            kv, bucket_s=settings.bucket_s, slots=settings.season_buckets, lead_s=settings.forecast_lead_s
        )

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        while True:
            async with self._election.lead() as leadership:
                log.info("leading", of="autoscaling")
                await self._lead(leadership)
                log.warning("leadership lost", of="autoscaling")

    async def _lead(self, leadership: Leadership) -> None:
        # Nothing of a former leadership: whatever was seen then may have changed since.
        self._known: dict[str, Deployment] = {}
        self._memories: dict[str, Memory] = {}
        self._told_at: dict[str, float] = {}
        self._marks: set[str] = set()
        self._metrics: dict[str, dict[str, tuple[str, ...]]] = {}
        self._queues: dict[str, ReplicaQueues] = {}
        self._board = LoadBoard(silent_s=_SILENT * self._settings.publish_s)
        self._seasons.clear()
        self._woken, self._knows = (
            asyncio.Event(),
            {each: asyncio.Event() for each in ("deployments", "loads", "wakes")},
        )
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._follow_deployments(leadership.guard)),
                tasks.create_task(self._follow_loads()),
                tasks.create_task(self._follow_wakes()),
                tasks.create_task(self._follow_workloads()),
                tasks.create_task(self._decide(leadership.guard)),
            ]
            await leadership.lost.wait()
            for task in running:
                task.cancel()

    async def _follow_deployments(self, guard: Compare) -> None:
        async with aclosing(follow(self._kv, DEPLOYMENTS)) as batches:
            async for batch in batches:
                for event in batch.events:
                    name = str(deployment_name_of(event.key))
                    if event.entry is not None:
                        known = self._known.get(name)
                        # What this leader has just written is newer than what it still hears.
                        if known is None or int(known.etag.strip('"')) <= event.entry.mod_revision:
                            self._known[name] = self._deployments.of(event.entry)
                        continue
                    gone = self._known.pop(name, None)
                    for known_of in (self._memories, self._told_at, self._queues, self._metrics):
                        known_of.pop(name, None)
                    if gone is not None and gone.autoscaling.forecast:
                        await self._seasons.forget(name, guard)
                self._knows["deployments"].set()

    async def _follow_loads(self) -> None:
        async with aclosing(follow(self._kv, LOADS)) as batches:
            async for batch in batches:
                for event in batch.events:
                    gateway = event.key.removeprefix(LOADS)
                    if event.entry is None:
                        self._board.lose(gateway, self._clock.monotonic())
                    else:
                        load = GatewayLoad.FromString(event.entry.value)
                        self._board.hear(gateway, load, self._clock.monotonic())
                self._knows["loads"].set()

    async def _follow_wakes(self) -> None:
        async with aclosing(follow(self._kv, WAKES)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.entry is None:
                        self._marks.discard(marked(event.key))
                    else:
                        self._marks.add(marked(event.key))
                        self._woken.set()
                self._knows["wakes"].set()

    async def _follow_workloads(self) -> None:
        async for change in self._feed.watch():
            workload = change.workload
            if change.event == WatchWorkloadsResponse.CHANGED and workload.kind == Workload.SERVING:
                ready = [each for each in workload.slices if each.state == Slice.READY and "metrics" in each.endpoints]
                found = tuple(each.endpoints["metrics"] for each in ready)
                self._metrics.setdefault(workload.owner, {})[workload.name] = found
            elif change.event == WatchWorkloadsResponse.DELETED:
                for of_owner in self._metrics.values():
                    of_owner.pop(workload.name, None)

    async def _decide(self, guard: Compare) -> None:
        for known in self._knows.values():
            await known.wait()
        while True:
            self._woken.clear()
            for deployment in list(self._known.values()):
                if deployment.HasField("autoscaling") and deployment.state in SERVING:
                    try:
                        await self._scale(deployment, guard)
                    except (LeptonError, KVError) as error:
                        log.warning("not scaled yet", deployment=deployment.name, error=str(error))
            for name in self._marks - {each.name for each in self._known.values() if each.state in SERVING}:
                await self._clear_mark(name, guard)
            await wait_for_event(self._woken, self._settings.every_s, self._clock)

    async def _scale(self, deployment: Deployment, guard: Compare) -> None:
        now, wall_s = self._clock.monotonic(), self._clock.now().timestamp()
        spec, desired = spec_of(deployment.autoscaling), sizing.replicas(deployment)
        sample = await self._sample(deployment, spec, now)
        floor = _NO_FLOOR
        if spec.forecast:
            if sample.is_complete:
                await self._seasons.learn(deployment.name, sample.in_flight, wall_s, guard)
            floor = self._seasons.floor(deployment.name, spec, wall_s)
        is_woken = deployment.name in self._marks
        memory = self._memories.get(deployment.name) or Memory.begin(now)
        decision = decide(spec, desired, memory, sample, floor=floor, is_woken=is_woken)
        self._memories[deployment.name] = decision.memory
        if self._is_news(deployment, decision, sample, now) or is_woken:
            await self._write(deployment, desired, decision, sample, guard, is_woken=is_woken)

    async def _sample(self, deployment: Deployment, spec: Spec, now: float) -> Sample:
        carried = self._board.carried(deployment.model_name, now)
        queueing = _NOTHING
        if spec.queue_delay_s or spec.utilization:
            endpoints = [each for found in self._metrics.get(deployment.name, {}).values() for each in found]
            queues = self._queues.setdefault(deployment.name, ReplicaQueues())
            queues.forget_all_but(endpoints)
            queueing = await queues.look(endpoints, now, max(1, deployment.serving.instances))
        return Sample(
            at=now,
            in_flight=carried.in_flight,
            requests_per_s=carried.requests_per_s,
            held=carried.held,
            ready=deployment.ready_replicas,
            queue_delay_s=queueing.queue_delay_s,
            busy=queueing.busy,
            is_complete=carried.is_complete,
        )

    def _is_news(self, deployment: Deployment, decision: Decision, sample: Sample, now: float) -> bool:
        """The reason changes with every sample: it is told now and then."""
        told = deployment.scaling
        if not deployment.HasField("scaling") or (told.desired, told.current) != (decision.desired, sample.ready):
            return True
        return told.why != decision.why and now - self._told_at.get(deployment.name, 0.0) >= self._settings.tell_s

    async def _write(
        self, deployment: Deployment, before: int, decision: Decision, sample: Sample, guard: Compare, *, is_woken: bool
    ) -> None:
        name, stamp = DeploymentName.parse(deployment.name), wall_now()

        def change(current: Deployment) -> None:
            if not current.HasField("autoscaling") or current.state not in SERVING:
                return
            status = current.scaling
            if decision.desired != before or not status.HasField("change_time"):
                status.change_time.CopyFrom(stamp)
                made = ScalingDecision(time=stamp, before=before, after=decision.desired, why=decision.why)
                kept = list(status.decisions)[: _KEPT_DECISIONS - 1]
                del status.decisions[:]
                status.decisions.extend([made, *kept])
            status.desired, status.current, status.why = decision.desired, sample.ready, decision.why
            if sample.is_called or is_woken:
                status.last_call_time.CopyFrom(stamp)

        def beside(_: Deployment) -> list[Op]:
            return [Delete(wake_key(name))] if is_woken else []

        changed = await self._deployments.change(name, change, guard=[guard], beside=beside)
        self._known[deployment.name] = changed
        self._told_at[deployment.name] = sample.at
        if is_woken:
            self._marks.discard(deployment.name)
        if decision.desired != before:
            log.info("scaled", deployment=deployment.name, before=before, after=decision.desired, why=decision.why)

    async def _clear_mark(self, name: str, guard: Compare) -> None:
        """Whoever is marked cannot be woken: it is gone, being prepared, or has failed."""
        deployment = self._known.get(name)
        if deployment is None or deployment.state in {Deployment.DELETING, Deployment.FAILED}:
            self._marks.discard(name)
            await self._kv.txn([guard], [Delete(wake_key(DeploymentName.parse(name)))])
