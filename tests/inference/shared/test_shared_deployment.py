"""A deployment on shared servers: the reconciler and the gateway treat its model as they treat any replicas."""

from typing import Any

import pytest

from chassis.ledger import Ledger
from chassis.resources import now
from lepton.errors import InvalidArgument
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.serving_options_pb2 import ServingOptions
from lepton.internal.v1.model_server_pb2 import SharedModel
from lepton.names import WorkloadName
from services.inference.envoy import Endpoint
from services.inference.gateway import routes
from services.inference.revisions import Revisions
from services.inference.shared.ledger import SharedLedger
from services.inference.shared.registry import SHARED, seen_as, shared_key, shared_models
from tests.harness.shown import shown
from tests.harness.wait import until
from tests.inference.conftest import World, deployment_request

HOLDER = Endpoint(host="127.0.0.1", port=1)


async def shared_deployment(world: World) -> Deployment:
    world.ledger = SharedLedger(world.ledger, world.kv)
    version = await world.version(await world.model())
    request = deployment_request(version.name, replicas=1, serving=ServingOptions(shared=True))
    return await world.served.create(request)


async def the_model(world: World) -> SharedModel:
    """The one shared model, as soon as there is one."""

    async def exists() -> bool:
        return bool((await world.kv.list(SHARED)).entries)

    await until(exists)
    (entry,) = (await world.kv.list(SHARED)).entries
    return SharedModel.FromString(entry.value)


async def test_a_shared_deployment_becomes_ready_without_a_place_of_its_own(scheduled_world: World) -> None:
    world = scheduled_world
    deployment = await shared_deployment(world)
    async with world.reconciling():
        await world.exported(deployment)
        model = await the_model(world)
        assert model.wanted
        assert model.workload.owner == deployment.name
        name = WorkloadName.parse(model.workload.name)

        def load(current: SharedModel) -> None:
            place = current.placements.add(endpoint="127.0.0.1:9001", node="pools/p/nodes/n1", assign_time=now())
            place.load_time.CopyFrom(now())

        model = await shared_models(world.kv).change(name, load)
        ready = await world.in_state(deployment, Deployment.READY)
        assert [each.node for each in ready.replica_states] == ["pools/p/nodes/n1"]
        assert model.workload.name not in await world.scheduler.names()
        await check_routes(world, ready, model)
        await world.served.delete(pb.DeleteDeploymentRequest(name=deployment.name))
        await shown(world.kv, shared_key(name), SharedModel, lambda current: current is None)
        await world.gone(deployment)


async def check_routes(world: World, deployment: Deployment, model: SharedModel) -> None:
    """Calls go to the shared server; while it is unloaded, to whoever holds them."""
    revisions = {each.name: each for each in (await Revisions(world.kv).all(deployment.name)).values()}
    seen = seen_as(model)
    (route,) = routes({deployment.name: deployment}, revisions, {seen.name: seen}, holder=HOLDER).routes
    assert route.targets[0].endpoints == (Endpoint(host="127.0.0.1", port=9001),)
    assert route.holder == HOLDER
    del model.placements[:]
    seen = seen_as(model)
    (route,) = routes({deployment.name: deployment}, revisions, {seen.name: seen}, holder=HOLDER).routes
    assert route.targets[0].endpoints == ()
    assert route.holder == HOLDER


@pytest.mark.parametrize("field", ["replicas", "cpu_milli", "memory_bytes", "pools"])
async def test_what_only_servers_of_its_own_could_give_is_refused(world: World, field: str) -> None:
    version = await world.version(await world.model())
    value: Any = ["pools/p"] if field == "pools" else 2
    with pytest.raises(InvalidArgument) as caught:
        await world.served.create(
            deployment_request(version.name, serving=ServingOptions(shared=True), **{field: value})
        )
    assert list(caught.value.fields) == [f"deployment.{field}"]


async def test_a_deployment_with_servers_of_its_own_goes_to_the_scheduler(scheduled_world: World) -> None:
    world = scheduled_world
    assert isinstance(world.ledger, Ledger)
    world.ledger = SharedLedger(world.ledger, world.kv)
    deployment = await world.deployed()
    async with world.reconciling():
        await world.exported(deployment)
        assert await world.serving(deployment) in await world.scheduler.names()
        assert not (await world.kv.list(SHARED)).entries
