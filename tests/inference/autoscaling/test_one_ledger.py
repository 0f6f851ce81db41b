"""A deployment and a training run on one machine: a real scheduler gives replicas what training can spare, and back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from chassis.artifacts import ArtifactStore
from chassis.clock import SystemClock
from chassis.election import Election
from chassis.ledger import Ledger
from lepton.inference.v1.autoscaling_pb2 import Autoscaling
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.internal.v1.gateway_load_pb2 import GatewayLoad, ModelLoad
from lepton.models.package import ONNX
from lepton.scheduler.v1 import queue_pb2, queue_service_pb2
from lepton.scheduler.v1.queue_service_pb2_grpc import QueueServiceStub
from services.inference.autoscaling.autoscaler import Autoscaler
from services.inference.autoscaling.keys import LEADER, load_key
from services.inference.autoscaling.settings import AutoscalingSettings
from services.inference.autoscaling.waker import DurableWaker
from services.scheduler.config import Elastic
from tests.harness.agent import Running, ScriptedAgent, Slice
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, Workload, config, replica_of, workload
from tests.harness.serving import linear_model
from tests.inference.conftest import World, deployment_request

pytestmark = pytest.mark.integration

NODE = "pools/general/nodes/n1"
CORE = 1000


def tenths(value: int) -> Duration:
    return Duration(seconds=value // 10, nanos=value % 10 * 10**8)


@dataclass
class Fleet:
    """One node of eight cores, the scheduler that gives them out, and the inference service's leader."""

    world: World
    scheduler: Replica
    agent: ScriptedAgent
    carried: float = 0.0

    def counts(self, training: str) -> tuple[int, int]:
        """How many slices run: of the deployment, of the training run."""
        serving = sum(
            len(self.agent.running(name)) for name in {name for name, _ in self.agent.slices if "serve-" in name}
        )
        return serving, len(self.agent.running(training))

    async def tell(self) -> None:
        while True:
            load = GatewayLoad(is_fresh=True, models=[ModelLoad(model="acme.digits", in_flight=self.carried)])
            await self.world.kv.put(load_key("g1"), load.SerializeToString())
            await asyncio.sleep(0.05)

    async def deploy(self, **wish: Any) -> Deployment:
        onnx = await self.world.artifacts.put_bytes("acme", linear_model())
        version = await self.world.version(await self.world.model("m"), **{ONNX: onnx})
        autoscaling = Autoscaling(max_replicas=4, look_back=tenths(2), down_stabilization=tenths(3), **wish)
        request = deployment_request(version.name, replicas=1, cpu_milli=CORE, autoscaling=autoscaling)
        return await self.world.served.create(request)


@asynccontextmanager
async def running(coroutine: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, Exception):
            raise outcome


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    settings = replace(config(), elastic=Elastic(settled_s=0.5, cooled_s=0.1))
    async with AsyncExitStack() as opened:
        kv = await opened.enter_async_context(MemoryKV())
        scheduler = await opened.enter_async_context(replica_of(await opened.enter_async_context(MemoryKV()), settings))
        await scheduler.create_pool()
        queues = QueueServiceStub(await opened.enter_async_context(scheduler.mesh.client("users/root")))
        queue = queue_pb2.Queue(min_runtime_s=1)
        await queues.CreateQueue(queue_service_pb2.CreateQueueRequest(queue_id="default", queue=queue))
        agent = await opened.enter_async_context(ScriptedAgent(NODE, cpu_milli=8 * CORE))
        agent.on_start = answers
        await scheduler.connect(agent)
        ledger = Ledger(await scheduler.channel("service/inference"))
        world = World(kv, None, ledger, ArtifactStore(f"file://{tmp_path}/artifacts"))  # type: ignore[arg-type]
        fleet = Fleet(world, scheduler, agent)
        scaler = Autoscaler(
            kv, Election(kv, LEADER, "i1"), ledger, SystemClock(), AutoscalingSettings(every_s=0.05, publish_s=0.5)
        )
        await opened.enter_async_context(running(fleet.tell()))
        await opened.enter_async_context(running(scaler.run()))
        await opened.enter_async_context(world.reconciling())
        yield fleet


def answers(slice_: Running) -> int:
    """A replica is proven at once; a rank just runs."""
    if slice_.program.HasField("triton"):
        slice_.slice.endpoints["grpc"] = f"127.0.0.1:{9000 + slice_.slice.index % 10}"
        return Slice.READY
    return Slice.RUNNING


async def train(fleet: Fleet, least: int) -> str:
    gang = workload(least, most=8, device_milli=0, cpu_milli=CORE, kind=Workload.TRAINING)
    await fleet.scheduler.submit("gang", gang)
    return (await fleet.scheduler.until_state("gang", Workload.RUNNING)).name


async def test_training_gives_up_surplus_for_replicas_and_takes_it_back(fleet: Fleet) -> None:
    deployment = await fleet.deploy(min_replicas=1)
    await fleet.world.in_state(deployment, Deployment.READY)
    training = await train(fleet, least=2)
    assert fleet.counts(training) == (1, 7), "training has all that is left"
    fleet.carried = 15.0
    await fleet.agent.until(lambda: fleet.counts(training) == (4, 4))
    grown = await fleet.world.deployment(deployment, lambda current: current.ready_replicas == 4)
    assert "15 calls in flight" in grown.scaling.why
    fleet.carried = 1.0
    await fleet.agent.until(lambda: fleet.counts(training) == (1, 7))
    shrunk = await fleet.world.deployment(deployment, lambda current: current.scaling.current == 1)
    after = [each.after for each in shrunk.scaling.decisions]  # the newest first
    assert after[0] == 1
    assert 4 in after


async def test_a_gang_that_needs_all_it_has_gives_up_nothing(fleet: Fleet) -> None:
    """The negative control of the former: the deployment waits, and says for what."""
    deployment = await fleet.deploy(min_replicas=1, cold_start_patience=tenths(3))
    await fleet.world.in_state(deployment, Deployment.READY)
    training = await train(fleet, least=7)
    fleet.carried = 15.0
    waiting = await fleet.world.deployment(deployment, lambda current: current.scaling.desired == 4)
    assert waiting.ready_replicas == 1
    await fleet.agent.until(lambda: fleet.agent.beats_acked > 0)
    assert fleet.counts(training) == (1, 7)


async def test_a_deployment_that_sleeps_holds_nothing_and_wakes_when_it_is_called(fleet: Fleet) -> None:
    deployment = await fleet.deploy(scale_to_zero_delay=tenths(5))
    await fleet.world.deployment(
        deployment, lambda current: current.HasField("scaling") and not current.scaling.desired
    )
    await fleet.agent.until(lambda: fleet.counts("")[0] == 0)
    training = await train(fleet, least=2)
    assert fleet.counts(training) == (0, 8)
    await DurableWaker(fleet.world.kv).wake(deployment.name)
    woken = await fleet.world.deployment(deployment, lambda current: current.ready_replicas == 1)
    assert "a call wakes it" in [each.why for each in woken.scaling.decisions]
    await fleet.agent.until(lambda: fleet.counts(training) == (1, 7))  # the gang begins anew with seven
