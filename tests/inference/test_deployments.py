"""Deployments as their users change them."""

import asyncio
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lepton.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.names import DeploymentName
from services.inference.store import deployments
from tests.inference.conftest import World, deployment_request


async def put(world: World, deployment: Deployment, state: Deployment.State.ValueType) -> None:
    def change(current: Deployment) -> None:
        current.state = state

    await deployments(world.kv).change(DeploymentName.parse(deployment.name), change)


def scale(deployment: Deployment, replicas: int, *, etag: str = "", mask: str = "") -> pb.UpdateDeploymentRequest:
    wanted = Deployment(name=deployment.name, replicas=replicas, etag=etag)
    return pb.UpdateDeploymentRequest(deployment=wanted, update_mask=FieldMask(paths=[mask]) if mask else None)


async def test_a_new_deployment_names_its_version_by_number_and_its_gateway(world: World) -> None:
    model = await world.model()
    await world.version(model)
    created = await world.served.create(deployment_request(f"{model.name}/versions/latest", replicas=3))
    assert created.model_version == f"{model.name}/versions/1"
    assert (created.state, created.replicas) == (Deployment.PREPARING, 3)
    assert (created.model_name, created.gateway) == ("acme.digits", "gateway:443")


async def test_a_repeat_gets_the_first_answer_even_when_latest_has_moved_or_gone(world: World) -> None:
    model = await world.model()
    await world.version(model)
    request = deployment_request(f"{model.name}/versions/latest")
    first = await world.served.create(request)
    await world.version(model)
    assert await world.served.create(request) == first
    answers = await asyncio.gather(*(world.served.create(request) for _ in range(5)))
    assert {answer.uid for answer in answers} == {first.uid}
    with pytest.raises(AlreadyExists, match="DEPLOYMENT_ALREADY_EXISTS"):
        await world.served.create(deployment_request(f"{model.name}/versions/1"))


@pytest.mark.parametrize(
    "version",
    ["projects/acme/models/nobody/versions/1", "projects/other/models/m/versions/1"],
    ids=["absent", "foreign"],
)
async def test_a_version_that_is_not_there_is_not_deployed(world: World, version: str) -> None:
    with pytest.raises(NotFound) as caught:
        await world.served.create(deployment_request(version))
    assert caught.value.metadata == {"version": version}


async def test_a_pool_must_be_named_as_one(world: World) -> None:
    model = await world.model()
    version = await world.version(model)
    with pytest.raises(InvalidArgument) as caught:
        await world.served.create(deployment_request(version.name, pools=["pools/a", "b"]))
    assert list(caught.value.fields) == ["deployment.pools[1]"]


@pytest.mark.parametrize("mask", ["", "replicas", "*"])
async def test_the_number_of_replicas_can_be_changed(world: World, mask: str) -> None:
    deployment = await world.deployed()
    assert (await world.served.update(scale(deployment, 4, mask=mask))).replicas == 4


async def test_nothing_else_can_be_changed(world: World) -> None:
    deployment = await world.deployed()
    with pytest.raises(InvalidArgument) as caught:
        await world.served.update(scale(deployment, 4, mask="priority"))
    assert "priority" in caught.value.fields["update_mask"]


async def test_of_two_who_read_the_same_one_changes_it(world: World) -> None:
    deployment = await world.deployed()
    updates = (world.served.update(scale(deployment, count, etag=deployment.etag)) for count in (3, 4))
    outcomes = await asyncio.gather(*updates, return_exceptions=True)
    assert sum(isinstance(outcome, Aborted) for outcome in outcomes) == 1


@pytest.mark.parametrize("state", [Deployment.DELETING, Deployment.FAILED])
async def test_what_does_not_serve_cannot_be_scaled(world: World, state: Deployment.State.ValueType) -> None:
    deployment = await world.deployed()
    await put(world, deployment, state)
    with pytest.raises(FailedPrecondition, match="DEPLOYMENT_NOT_SERVING"):
        await world.served.update(scale(deployment, 4))


async def test_deleting_twice_is_deleting_once(world: World) -> None:
    deployment = await world.deployed()
    request = pb.DeleteDeploymentRequest(name=deployment.name)
    first = await world.served.delete(request)
    assert first.state == Deployment.DELETING
    assert await world.served.delete(request) == first
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await world.served.delete(pb.DeleteDeploymentRequest(name=deployment.name, etag=deployment.etag))


async def test_where_it_waits_and_how_far_it_may_be_trimmed_is_kept(world: World) -> None:
    await world.version(await world.model())
    version = "projects/acme/models/digits/versions/1"
    wishes: dict[str, Any] = {"queue": "queues/prod", "priority": 9, "min_replicas": 2}
    created = await world.served.create(deployment_request(version, replicas=3, **wishes))
    assert (created.queue, created.priority, created.min_replicas) == ("queues/prod", 9, 2)
    with pytest.raises(InvalidArgument) as refused:
        await world.served.update(scale(created, 1, mask="replicas"))
    assert list(refused.value.fields) == ["deployment.min_replicas"]
    lower = Deployment(name=created.name, replicas=1, min_replicas=1)
    both = pb.UpdateDeploymentRequest(deployment=lower, update_mask=FieldMask(paths=["replicas", "min_replicas"]))
    changed = await world.served.update(both)
    assert (changed.replicas, changed.min_replicas) == (1, 1)
    only = pb.UpdateDeploymentRequest(deployment=Deployment(name=created.name, replicas=7, min_replicas=0))
    only.update_mask.paths.append("min_replicas")
    changed = await world.served.update(only)
    assert (changed.replicas, changed.min_replicas) == (1, 0)


@pytest.mark.parametrize(
    ("wishes", "field"),
    [({"queue": "prod"}, "deployment.queue"), ({"min_replicas": 4}, "deployment.min_replicas")],
)
async def test_a_wish_that_cannot_be_is_refused(world: World, wishes: dict[str, Any], field: str) -> None:
    await world.version(await world.model())
    with pytest.raises(InvalidArgument) as refused:
        await world.served.create(
            deployment_request("projects/acme/models/digits/versions/1", **{"replicas": 3, **wishes})
        )
    assert list(refused.value.fields) == [field]
