"""The leader's loop: loads and marks in the store become numbers of replicas in the store, whoever leads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from chassis.clock import SystemClock
from chassis.election import Election
from chassis.kv import Delete
from lepton.inference.v1.autoscaling_pb2 import Autoscaling, Scaling
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.internal.v1.gateway_load_pb2 import GatewayLoad, ModelLoad
from lepton.names import DeploymentName
from lepton.scheduler.v1.scheduler_service_pb2 import WatchWorkloadsResponse
from services.inference.autoscaling.autoscaler import Autoscaler
from services.inference.autoscaling.keys import LEADER, LOADS, load_key, season_key, wake_key
from services.inference.autoscaling.publisher import LoadPublisher
from services.inference.autoscaling.settings import AutoscalingSettings
from services.inference.autoscaling.waker import DurableWaker
from services.inference.envoy import EnvoyAdmin
from services.inference.store import deployment_key, deployments
from tests.harness.memory_kv import MemoryKV
from tests.harness.serving import gateway
from tests.harness.shown import shown
from tests.harness.wait import until

pytestmark = pytest.mark.integration

NAME = DeploymentName("acme", "digits")
MODEL = "acme.digits"
SETTINGS = AutoscalingSettings(every_s=0.02, publish_s=0.25, tell_s=0.1, bucket_s=0.05, season_buckets=4)


def seconds(value: float) -> Duration:
    return Duration(nanos=int(value * 1e9) % 10**9, seconds=int(value))


def wish(**changes: Any) -> Autoscaling:
    """Windows of tenths of a second."""
    fields = {
        "max_replicas": 4,
        "look_back": seconds(0.2),
        "down_stabilization": seconds(0.3),
        "scale_to_zero_delay": seconds(0.6),
    }
    return Autoscaling(**{**fields, **changes})


class NoWorkloads:
    """A scheduler that has none."""

    async def watch(self) -> AsyncIterator[WatchWorkloadsResponse]:
        yield WatchWorkloadsResponse(event=WatchWorkloadsResponse.BOOKMARK)
        await asyncio.Event().wait()


@dataclass
class World:
    """A store with one deployment, and a gateway whose load the test tells."""

    kv: MemoryKV
    carried: float = 0.0
    answered: int = 0

    async def deploy(self, replicas: int = 1, ready: int = 1, **changes: Any) -> None:
        deployment = Deployment(
            name=str(NAME),
            model_name=MODEL,
            state=Deployment.READY,
            replicas=max(1, replicas),
            ready_replicas=ready,
            autoscaling=wish(**changes),
        )
        if not replicas:
            deployment.scaling.CopyFrom(Scaling(desired=0))
        await self.kv.put(deployment_key(NAME), deployment.SerializeToString())

    async def tell(self) -> None:
        """The gateway's load, again and again."""
        while True:
            load = GatewayLoad(
                is_fresh=True, models=[ModelLoad(model=MODEL, requests=self.answered, in_flight=self.carried)]
            )
            await self.kv.put(load_key("g1"), load.SerializeToString())
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        async with running(self.tell()):
            yield

    @asynccontextmanager
    async def scaling(self, candidate: str = "i1") -> AsyncIterator[None]:
        election = Election(self.kv, LEADER, candidate)
        async with running(Autoscaler(self.kv, election, NoWorkloads(), SystemClock(), SETTINGS).run()):
            yield

    async def desired(self, count: int) -> Scaling:
        def reached(current: Deployment | None) -> bool:
            return current is not None and current.HasField("scaling") and current.scaling.desired == count

        found = await shown(self.kv, deployment_key(NAME), Deployment, reached)
        assert found is not None
        return found.scaling

    async def is_present(self, key: str) -> bool:
        return await self.kv.get(key) is not None

    async def is_absent(self, key: str) -> bool:
        return await self.kv.get(key) is None

    async def now(self) -> Deployment:
        return await deployments(self.kv).get(NAME)

    async def watched(self, seconds: float) -> frozenset[int]:
        """Every number that is asked for while the time passes."""
        found = {(await self.now()).scaling.desired}

        async def watch() -> None:
            async for batch in self.kv.watch(deployment_key(NAME)):
                for event in batch.events:
                    assert event.entry is not None
                    found.add(Deployment.FromString(event.entry.value).scaling.desired)

        async with running(watch()):
            await asyncio.sleep(seconds)
        return frozenset(found)


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
async def world() -> AsyncIterator[World]:
    async with MemoryKV() as kv:
        yield World(kv)


async def test_replicas_follow_the_load_and_the_reason_is_told(world: World) -> None:
    await world.deploy()
    async with world.told(), world.scaling():
        world.carried = 14.0
        grown = await world.desired(4)
        assert "14 calls in flight, 4 for each replica" in grown.why
        made = grown.decisions[0]
        assert made.after == 4
        world.carried = 0.0
        await world.desired(1)
        asleep = await world.desired(0)
        assert asleep.why.startswith("no call for")
        assert [each.after for each in asleep.decisions][:2] == [0, 1]


async def test_a_mark_wakes_a_deployment_and_is_removed(world: World) -> None:
    await world.deploy(replicas=0, ready=0)
    waker = DurableWaker(world.kv)
    assert await waker.wake(str(NAME))
    assert await waker.wake(str(NAME)), "it may be repeated"
    async with world.told(), world.scaling():
        woken = await world.desired(1)
        assert woken.why == "a call wakes it"
    assert await world.kv.get(wake_key(NAME)) is None


async def test_a_mark_of_a_dead_leader_is_acted_on_by_the_next(world: World) -> None:
    await world.deploy(replicas=0, ready=0)
    async with world.told(), world.scaling("i1"):
        await shown(world.kv, deployment_key(NAME), Deployment, lambda current: current.HasField("scaling"))
    await DurableWaker(world.kv).wake(str(NAME))
    async with world.told(), world.scaling("i2"):
        await world.desired(1)


async def test_nobody_wakes_what_is_not_there(world: World) -> None:
    waker = DurableWaker(world.kv)
    assert await waker.wake(str(NAME))
    assert await world.kv.get(wake_key(NAME)) is None
    await world.kv.put(wake_key(NAME), b"called")  # it was deleted in between
    async with world.told(), world.scaling():
        await until(lambda: world.is_absent(wake_key(NAME)))


async def test_a_gateway_that_cannot_be_asked_costs_no_replica(world: World, tmp_path: Path) -> None:
    """A real Envoy is killed; the negative control is the same gateway before."""
    async with gateway(tmp_path / "gateway") as front:
        publisher = LoadPublisher(
            world.kv, EnvoyAdmin(tmp_path / "gateway"), dict, gateway_id="g1", clock=SystemClock(), every_s=0.1
        )
        await world.deploy(replicas=3, ready=3)
        async with running(publisher.run()):
            async with world.scaling("i1"):
                await world.desired(1)
            front.process.kill()
            await front.process.wait()
            await shown(world.kv, load_key("g1"), GatewayLoad, lambda load: load is not None and not load.is_fresh)
            await world.deploy(replicas=3, ready=3)
            async with world.scaling("i2"):
                await shown(world.kv, deployment_key(NAME), Deployment, lambda current: current.HasField("scaling"))
                assert await world.watched(1.5) <= {3}
                assert "does not tell" in (await world.now()).scaling.why


async def test_a_gateway_that_falls_silent_costs_no_replica(world: World) -> None:
    await world.deploy(replicas=3, ready=3, down_stabilization=seconds(1.5))
    async with world.told():
        await shown(world.kv, load_key("g1"), GatewayLoad, lambda load: load is not None)
    async with world.scaling():
        await shown(world.kv, deployment_key(NAME), Deployment, lambda current: current.HasField("scaling"))
        assert await world.watched(2.5) == {3}
        await world.kv.txn([], [Delete(load_key("g1"))])
        assert await world.watched(1.0) == {3}
    async with world.told(), world.scaling("i2"):  # the negative control: it tells again
        await world.desired(0)


async def test_without_autoscaling_a_deployment_is_left_alone(world: World) -> None:
    await world.deploy()

    def without(current: Deployment) -> None:
        current.ClearField("autoscaling")

    await deployments(world.kv).change(NAME, without)
    world.carried = 40.0
    async with world.told(), world.scaling():
        assert await world.watched(0.5) == {0}
    assert not (await world.now()).HasField("scaling")


async def test_several_gateways_are_one_load(world: World) -> None:
    await world.deploy()
    load = GatewayLoad(is_fresh=True, models=[ModelLoad(model=MODEL, in_flight=8.0)])

    async def other() -> None:
        while True:
            await world.kv.put(f"{LOADS}g2", load.SerializeToString())
            await asyncio.sleep(0.05)

    world.carried = 7.0
    async with world.told(), running(other()), world.scaling():
        await world.desired(4)


async def test_what_comes_every_day_is_learnt_and_kept_for_the_next_leader(world: World) -> None:
    """Days of four twentieths of a second, always with the same load."""
    await world.deploy(forecast=True, max_replicas=8)
    world.carried = 10.0
    async with world.told(), world.scaling("i1"):
        await world.desired(3)
        await until(lambda: world.is_present(season_key(NAME)))
    await world.deploy(replicas=0, ready=0, forecast=True, max_replicas=8)
    world.carried = 0.0
    async with world.told(), world.scaling("i2"):
        expected = await world.desired(3)
        assert "as at this time of other days" in expected.why
