"""The inference service's public methods, as a client sees them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chassis.paging import Pager
from lepton.errors import Aborted, LeptonError, NotFound, OutOfRange, PermissionDenied
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from lepton.inference.v1.model_pb2 import Model
from services.inference.servicer import InferenceServicer
from services.inference.store import PAGE_KEY
from tests.harness.mesh import ROLES, Mesh, serving
from tests.inference.conftest import PROJECT, World, deployment_request, version_request


@pytest.fixture
async def mesh(world: World) -> AsyncIterator[Mesh]:
    servicer = InferenceServicer(world.kv, world.registry, world.served, await Pager.open(world.kv, PAGE_KEY))
    async with serving((add_InferenceServiceServicer_to_server, servicer), name="inference") as mesh:
        developer = ROLES["roles/developer"] | {"models.*", "deployments.*"}
        mesh.change_policy(roles={**ROLES, "roles/developer": developer})
        yield mesh


@pytest.fixture
async def stub(mesh: Mesh) -> AsyncIterator[Any]:
    async with mesh.client() as channel:
        yield InferenceServiceStub(channel)


async def test_from_a_model_to_a_deployment(stub: Any, world: World) -> None:
    model = await stub.CreateModel(pb.CreateModelRequest(parent=PROJECT, model_id="digits"))
    version = await stub.CreateModelVersion(version_request(model, await world.package()))
    champion = pb.SetModelAliasRequest(name=model.name, alias="champion", version=1)
    assert (await stub.SetModelAlias(champion)).aliases == {"champion": 1}
    named = await stub.GetModelVersion(pb.GetModelVersionRequest(name=f"{model.name}/versions/champion"))
    assert named == version
    deployment = await stub.CreateDeployment(deployment_request(named.name))
    assert await stub.GetDeployment(pb.GetDeploymentRequest(name=deployment.name)) == deployment
    assert list((await stub.ListDeployments(pb.ListDeploymentsRequest(parent=PROJECT))).deployments) == [deployment]
    scaled = Deployment(name=deployment.name, replicas=4)
    assert (await stub.UpdateDeployment(pb.UpdateDeploymentRequest(deployment=scaled))).replicas == 4
    deleted = await stub.DeleteDeployment(pb.DeleteDeploymentRequest(name=deployment.name))
    assert deleted.state == Deployment.DELETING


async def test_versions_come_newest_first_over_all_pages(stub: Any, world: World) -> None:
    model = await world.model()
    for _ in range(12):
        await world.version(model)
    seen, token = [], ""
    while True:
        request = pb.ListModelVersionsRequest(parent=model.name, page_size=5, page_token=token)
        page = await stub.ListModelVersions(request)
        seen += [int(version.name.rpartition("/")[2]) for version in page.model_versions]
        if not (token := page.next_page_token):
            break
    assert seen == list(range(12, 0, -1))


async def test_models_are_listed_in_pages(stub: Any, world: World) -> None:
    for name in "abc":
        await world.model(name)
    first = await stub.ListModels(pb.ListModelsRequest(parent=PROJECT, page_size=2))
    token = first.next_page_token
    second = await stub.ListModels(pb.ListModelsRequest(parent=PROJECT, page_size=2, page_token=token))
    assert [model.name[-1] for model in (*first.models, *second.models)] == ["a", "b", "c"]
    assert second.next_page_token == ""


async def outcome(call: Any) -> tuple[Any, ...]:
    try:
        return (await call,)
    except LeptonError as error:
        return (type(error), error.reason, error.message, error.metadata, error.fields)


FOREIGN = [
    ("GetModel", pb.GetModelRequest(name=f"{PROJECT}/models/m-digits")),
    ("DeleteModel", pb.DeleteModelRequest(name=f"{PROJECT}/models/m-digits")),
    ("SetModelAlias", pb.SetModelAliasRequest(name=f"{PROJECT}/models/m-digits", alias="a", version=1)),
    ("GetModelVersion", pb.GetModelVersionRequest(name=f"{PROJECT}/models/m-digits/versions/1")),
    ("ListModelVersions", pb.ListModelVersionsRequest(parent=f"{PROJECT}/models/m-digits")),
    ("GetDeployment", pb.GetDeploymentRequest(name=f"{PROJECT}/deployments/digits")),
    ("DeleteDeployment", pb.DeleteDeploymentRequest(name=f"{PROJECT}/deployments/digits")),
    (
        "UpdateDeployment",
        pb.UpdateDeploymentRequest(deployment=Deployment(name=f"{PROJECT}/deployments/digits", replicas=2)),
    ),
    ("CreateDeployment", deployment_request(f"{PROJECT}/models/m-digits/versions/1", "mine")),
]


@pytest.mark.parametrize(("method", "request_"), FOREIGN, ids=[method for method, _ in FOREIGN])
async def test_what_is_foreign_is_exactly_what_is_absent(mesh: Mesh, world: World, method: str, request_: Any) -> None:
    if method == "CreateDeployment":
        request_.parent = "projects/other"
    async with mesh.client("users/bob") as channel:
        bob = InferenceServiceStub(channel)
        absent = await outcome(getattr(bob, method)(request_))
        await world.deployed()
        assert await outcome(getattr(bob, method)(request_)) == absent
    assert absent[0] is NotFound


async def test_a_viewer_reads_and_does_not_change(mesh: Mesh, world: World) -> None:
    deployment = await world.deployed()
    async with mesh.client("users/carol") as channel:
        carol: Any = InferenceServiceStub(channel)
        assert (await carol.GetDeployment(pb.GetDeploymentRequest(name=deployment.name))).uid == deployment.uid
        with pytest.raises(PermissionDenied):
            await carol.DeleteDeployment(pb.DeleteDeploymentRequest(name=deployment.name))


async def test_a_watch_goes_on_from_a_bookmark(stub: Any, world: World) -> None:
    event = pb.WatchDeploymentsResponse
    deployment = await world.deployed("a")
    await world.deployed("ab")
    stream = stub.WatchDeployments(pb.WatchDeploymentsRequest(parent=PROJECT, name=deployment.name))
    assert (await stream.read()).deployment == deployment
    bookmark = await stream.read()
    assert bookmark.event == event.BOOKMARK
    stream.cancel()
    await world.served.delete(pb.DeleteDeploymentRequest(name=deployment.name))
    request = pb.WatchDeploymentsRequest(parent=PROJECT, revision=bookmark.revision)
    stream = stub.WatchDeployments(request)
    assert (await stream.read()).deployment.state == Deployment.DELETING
    stream.cancel()
    await world.kv.compact((await world.kv.list("/")).revision)
    with pytest.raises(OutOfRange, match="REVISION_COMPACTED"):
        await stub.WatchDeployments(request).read()


async def test_an_update_of_what_has_changed_since_it_was_read_is_refused(stub: Any, world: World) -> None:
    read = await world.deployed()
    changed = Deployment(name=read.name, replicas=4, etag=read.etag)
    await stub.UpdateDeployment(pb.UpdateDeploymentRequest(deployment=changed))
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await stub.UpdateDeployment(pb.UpdateDeploymentRequest(deployment=changed))
    assert (await world.current(read)).replicas == 4


async def test_what_the_server_sets_is_not_taken_from_the_client(stub: Any) -> None:
    given = Model(display_name="Digits", latest_version=7, aliases={"champion": 1})
    model = await stub.CreateModel(pb.CreateModelRequest(parent=PROJECT, model_id="digits", model=given))
    assert (model.display_name, model.latest_version, dict(model.aliases)) == ("Digits", 0, {})
