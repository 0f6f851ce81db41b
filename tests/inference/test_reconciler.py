"""Deployments go from a version to replicas that answer, and away again, whatever dies in between."""

import asyncio
import functools

import pytest

from lepton.errors import InvalidArgument, Unavailable
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.registry_pb2 import QuarantineModelsRequest, ReleaseModelsRequest
from lepton.inference.v1.revision_pb2 import DeploymentRevision, PreparedModel
from lepton.inference.v1.serving_options_pb2 import ServingOptions
from lepton.names import DeploymentName
from lepton.scheduler.v1.program_pb2 import ServedModel
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference.quarantine import Quarantines
from services.inference.serving import serving_request
from services.inference.sizing import Size
from services.inference.store import deployments
from services.inference.triton_repository import CONFIG
from tests.harness.crashes import Steps
from tests.inference.conftest import PROJECT, World, deployment_request, workload_of

pytestmark = pytest.mark.integration

GOLDEN = "sha256:" + "b" * 64


@pytest.fixture
def world(scheduled_world: World) -> World:
    return scheduled_world


async def ready(world: World, deployment: Deployment) -> str:
    """Takes a deployment to READY; the workload of its replicas."""
    await world.exported(deployment)
    name = await world.serving(deployment)
    await world.scheduler.ready(name, 0, 1)
    await world.in_state(deployment, Deployment.READY)
    return name


async def scaled(world: World, deployment: Deployment, replicas: int) -> None:
    wanted = Deployment(name=deployment.name, replicas=replicas)
    await world.served.update(pb.UpdateDeploymentRequest(deployment=wanted))


async def delete(world: World, deployment: Deployment) -> None:
    await world.served.delete(pb.DeleteDeploymentRequest(name=deployment.name))


async def test_a_deployment_is_prepared_started_and_ready(world: World) -> None:
    deployment = await world.deployed()
    async with world.reconciling():
        await world.exported(deployment)
        name = await world.serving(deployment)
        starting = await world.in_state(deployment, Deployment.STARTING)
        await world.scheduler.ready(name, 0)
        degraded = await world.in_state(deployment, Deployment.DEGRADED)
        await world.scheduler.ready(name, 0, 1)
        done = await world.in_state(deployment, Deployment.READY)
    files = await world.repository_files(starting.repository)
    assert {CONFIG, "1/model.py", "1/model.onnx"} <= set(files)
    assert b'name: "acme.digits"' in await world.artifacts.read("acme", files[CONFIG])
    assert await world.artifacts.read("acme", files["1/model.onnx"]) == b"onnx"
    assert degraded.ready_replicas == 1
    assert (done.ready_replicas, done.workload, done.HasField("ready_time")) == (2, name, True)


async def test_a_replica_that_is_lost_and_comes_back(world: World) -> None:
    deployment = await world.deployed()
    async with world.reconciling():
        name = await ready(world, deployment)
        await world.scheduler.ready(name, 0)
        await world.in_state(deployment, Deployment.DEGRADED)
        await world.scheduler.ready(name)
        await world.in_state(deployment, Deployment.STARTING)
        await world.scheduler.ready(name, 0, 1)
        await world.in_state(deployment, Deployment.READY)


async def test_a_replica_is_ready_only_once_the_gateway_sends_it_requests(world: World) -> None:
    world.routing.only = frozenset()
    deployment = await world.deployed()
    async with world.reconciling():
        await world.exported(deployment)
        name = await world.serving(deployment)
        await world.scheduler.ready(name, 0, 1)
        await world.deployment(deployment, lambda current: len(current.replica_states) == 2)
        assert (await world.current(deployment)).state == Deployment.STARTING
        world.routing.only = None  # nothing tells the service: it looks again by itself
        await world.in_state(deployment, Deployment.READY)


async def test_a_quarantine_is_told_by_the_deployment_and_so_is_its_end(world: World) -> None:
    deployment, other = await world.deployed(), await world.deployed("other")
    version = await world.registry.get_version(deployment.model_version)
    quarantines, asked = Quarantines(world.kv, world.registry), {"parent": PROJECT, "source": version.name}
    async with world.reconciling():
        await ready(world, deployment)
        await ready(world, other)
        await quarantines.quarantine(QuarantineModelsRequest(**asked, reason="labels swapped"))
        told = await world.deployment(deployment, lambda current: "quarantined" in current.message)
        assert (told.state, told.ready_replicas) == (Deployment.DEGRADED, 0)
        assert version.name in told.message
        assert "labels swapped" in told.message
        await quarantines.release(ReleaseModelsRequest(**asked))
        assert (await world.in_state(deployment, Deployment.READY)).message == ""
        assert (await world.current(other)).state == Deployment.READY


async def test_what_the_gateway_refuses_is_told_by_the_deployment(world: World) -> None:
    deployment = await world.deployed()
    async with world.reconciling():
        await ready(world, deployment)
        for files in (("ecds/limits.json",), ()):
            world.routing.files = files
            world.routing.changed.set()  # no deployment has changed
            told = await world.deployment(deployment, lambda current: bool(current.message) == bool(files))  # noqa: B023
            assert told.state == Deployment.READY
            assert all(name in told.message for name in files)


async def test_scaling_changes_the_workload(world: World) -> None:
    deployment = await world.deployed()
    async with world.reconciling():
        name = await ready(world, deployment)
        await scaled(world, deployment, 3)
        await world.scheduler.workload(name, lambda w: w.groups[0].min_count == w.groups[0].max_count == 3)
        await world.in_state(deployment, Deployment.DEGRADED)
        await world.scheduler.ready(name, 0, 1, 2)
        assert (await world.in_state(deployment, Deployment.READY)).ready_replicas == 3
        await scaled(world, deployment, 1)
        await world.scheduler.workload(name, lambda w: w.groups[0].min_count == 1)


async def test_scaling_before_the_replicas_exist_is_not_lost(world: World) -> None:
    deployment = await world.deployed()
    await scaled(world, deployment, 5)
    async with world.reconciling():
        await world.exported(deployment)
        await world.scheduler.workload(await world.serving(deployment), lambda w: w.groups[0].min_count == 5)


@pytest.mark.parametrize("when", ["preparing", "starting", "ready"])
async def test_a_deleted_deployment_takes_its_workloads_with_it(world: World, when: str) -> None:
    deployment = await world.deployed()
    export, serve = workload_of(deployment, "export"), workload_of(deployment, "serve")
    async with world.reconciling():
        await world.scheduler.workload(export)
        if when != "preparing":
            await world.exported(deployment)
            await world.serving(deployment)
        if when == "ready":
            await world.scheduler.ready(serve, 0, 1)
            await world.in_state(deployment, Deployment.READY)
        await delete(world, deployment)
        ending = export if when == "preparing" else serve
        await world.scheduler.workload(ending, lambda w: w.state == Workload.CANCELLING)
        assert (await world.current(deployment)).state == Deployment.DELETING
        await world.scheduler.end(ending, Workload.CANCELLED)
        await world.gone(deployment)
    assert await world.scheduler.names() == []


async def test_a_deployment_deleted_before_anything_ran_is_just_gone(world: World) -> None:
    deployment = await world.deployed()
    await delete(world, deployment)
    async with world.reconciling():
        await world.gone(deployment)
    assert await world.scheduler.names() == []


async def test_an_export_that_fails_fails_the_deployment_with_its_words(world: World) -> None:
    deployment = await world.deployed()
    async with world.reconciling():
        await world.scheduler.workload(workload_of(deployment, "export"))
        await world.scheduler.end(workload_of(deployment, "export"), Workload.FAILED, "EXPORT_MISMATCH: logits")
        assert "EXPORT_MISMATCH" in (await world.in_state(deployment, Deployment.FAILED)).message
        await delete(world, deployment)
        await world.gone(deployment)


async def test_an_export_without_a_file_is_a_failed_one(world: World) -> None:
    deployment = await world.deployed()
    async with world.reconciling():
        await world.scheduler.workload(workload_of(deployment, "export"))
        await world.scheduler.end(workload_of(deployment, "export"), Workload.SUCCEEDED)
        assert "no file" in (await world.in_state(deployment, Deployment.FAILED)).message


async def test_a_model_that_triton_cannot_serve_fails_the_deployment(world: World) -> None:
    version = await world.version(await world.model())
    odd = ServingOptions(engine=ServingOptions.TENSORRT, engine_required=True)
    deployment = await world.served.create(deployment_request(version.name, replicas=2, serving=odd))
    async with world.reconciling():
        await world.exported(deployment)
        assert "holds no tensorrt engine" in (await world.in_state(deployment, Deployment.FAILED)).message


async def test_what_the_scheduler_will_never_take_fails_the_deployment(world: World) -> None:
    world.scheduler.fail("CreateWorkload", InvalidArgument("INVALID_FIELD", fields={"workload.pools": "no"}))
    deployment = await world.deployed()
    async with world.reconciling():
        assert "workload.pools" in (await world.in_state(deployment, Deployment.FAILED)).message


async def test_replicas_that_end_fail_the_deployment_even_while_it_is_scaled(world: World) -> None:
    deployment = await world.deployed()
    async with world.reconciling():
        name = await ready(world, deployment)
        await world.scheduler.end(name, Workload.FAILED, "no restarts left")
        await world.in_state(deployment, Deployment.FAILED)
    other = await world.deployed("other")
    async with world.reconciling():
        await world.exported(other)
        name = await world.serving(other)
        await world.deployment(other, lambda current: current.workload)
    await world.scheduler.end(name, Workload.FAILED, "no restarts left")
    await scaled(world, other, 7)
    async with world.reconciling():
        await world.in_state(other, Deployment.FAILED)


async def test_a_workload_that_an_operator_deletes_fails_the_deployment(world: World) -> None:
    deployment = await world.deployed()
    async with world.reconciling():
        name = await ready(world, deployment)
        await world.scheduler.forget(name)
        assert "deleted" in (await world.in_state(deployment, Deployment.FAILED)).message


async def test_a_scheduler_that_is_away_is_asked_again(world: World) -> None:
    world.scheduler.fail("CreateWorkload", Unavailable("TRY_AGAIN"), after=True)
    deployment = await world.deployed()
    async with world.reconciling():
        await ready(world, deployment)


async def test_workloads_that_a_late_leader_made_for_a_deleted_deployment_are_ended(world: World) -> None:
    deployment = await world.deployed()
    await delete(world, deployment)
    async with world.reconciling():
        await world.gone(deployment)
        model = ServedModel(name="acme.digits", repository=GOLDEN, golden=GOLDEN)
        models = [PreparedModel(name=model.name, served=model.SerializeToString())]
        revision = DeploymentRevision(name=f"{deployment.name}/revisions/1", models=models)
        late = serving_request(deployment, revision, Size(min=2, max=2))
        created = await world.ledger.create(late)
        assert created is not None
        await world.scheduler.workload(created.name, lambda w: w.state == Workload.CANCELLING)
        await world.scheduler.end(created.name, Workload.CANCELLED)
        await world.scheduler.gone(created.name)


async def life(world: World, deployment: Deployment) -> None:
    """What happens to the workloads of a deployment, whoever has made them."""
    export, serve = workload_of(deployment, "export"), workload_of(deployment, "serve")
    if (await world.scheduler.workload(export)).state == Workload.PENDING:
        await world.exported(deployment)
    await world.scheduler.workload(serve)
    await world.scheduler.ready(serve, 0, 1)
    await world.in_state(deployment, Deployment.READY)
    await delete(world, deployment)
    await world.scheduler.workload(serve, lambda w: w.state == Workload.CANCELLING)
    await world.scheduler.end(serve, Workload.CANCELLED)
    await world.gone(deployment)


@pytest.mark.parametrize("after", [False, True])
async def test_a_service_killed_at_any_step_goes_on_where_it_was(world: World, after: bool) -> None:
    killed = 0
    while True:
        deployment = await world.deployed(f"digits-{killed}")
        living = asyncio.ensure_future(life(world, deployment))
        steps = Steps(killed + 1, after=after)
        was_killed = await world.killed_at(steps, functools.partial(world.gone, deployment))
        async with world.reconciling("i2"):
            await living
        assert await world.scheduler.names() == []
        if not was_killed:
            break
        killed += 1
    assert killed >= 7


async def test_a_change_of_mind_between_look_and_write_stands(world: World) -> None:
    deployment = await world.deployed()
    async with world.reconciling():
        name = await ready(world, deployment)
        await asyncio.gather(delete(world, deployment), world.scheduler.ready(name, 0, state=Slice.READY))
        await world.scheduler.workload(name, lambda w: w.state == Workload.CANCELLING)
        current = await deployments(world.kv).get(DeploymentName.parse(deployment.name))
    assert (current.state, current.message) == (Deployment.DELETING, "replicas are being stopped")
