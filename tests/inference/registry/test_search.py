"""Models and versions are found by what is known of them, page by page, by whoever may see them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chassis.paging import Pager
from lepton.errors import InvalidArgument, LeptonError, PermissionDenied
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1 import registry_pb2
from lepton.inference.v1.inference_service_pb2_grpc import InferenceServiceStub, add_InferenceServiceServicer_to_server
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from services.inference.servicer import InferenceServicer
from services.inference.store import PAGE_KEY
from tests.harness.mesh import ROLES, Mesh, serving
from tests.inference.conftest import PROJECT, World


@pytest.fixture
async def mesh(world: World) -> AsyncIterator[Mesh]:
    servicer = InferenceServicer(world.kv, world.registry, world.served, await Pager.open(world.kv, PAGE_KEY))
    async with serving((add_InferenceServiceServicer_to_server, servicer), name="inference") as mesh:
        developer = ROLES["roles/developer"] | {"models.*"}
        mesh.change_policy(roles={**ROLES, "roles/developer": developer})
        yield mesh


@pytest.fixture
async def stub(mesh: Mesh) -> AsyncIterator[Any]:
    async with mesh.client() as channel:
        yield InferenceServiceStub(channel)


async def versions(stub: Any, filter_: str, parent: str = f"{PROJECT}/models/-", size: int = 3) -> list[str]:
    """Of all pages, `model@number`."""
    found, token = [], ""
    while True:
        request = pb.ListModelVersionsRequest(parent=parent, filter=filter_, page_size=size, page_token=token)
        answer = await stub.ListModelVersions(request)
        assert len(answer.model_versions) <= size
        found += ["@".join(version.name.split("/")[3::2]) for version in answer.model_versions]
        token = answer.next_page_token
        if not token:
            return found


async def test_versions_are_found_over_all_models_and_pages(stub: Any, world: World) -> None:
    for model_id in ("a", "b"):
        model = await world.model(model_id)
        for number in range(1, 6):
            version = await world.version(model)
            tags = {"parity": "even" if number % 2 == 0 else "odd"}
            changed = ModelVersion(name=version.name, tags=tags)
            await stub.UpdateModelVersion(registry_pb2.UpdateModelVersionRequest(model_version=changed))
    await stub.TransitionModelVersionStage(
        registry_pb2.TransitionModelVersionStageRequest(
            name=f"{PROJECT}/models/b/versions/4", stage=ModelVersion.PRODUCTION
        )
    )
    assert await versions(stub, "tags.parity = even") == ["a@4", "a@2", "b@4", "b@2"]
    assert await versions(stub, "stage = PRODUCTION") == ["b@4"]
    assert await versions(stub, "tags.parity = even AND version > 3 AND NOT model = a") == ["b@4"]
    assert await versions(stub, "metrics.accuracy >= 0.9 AND version = 1") == ["a@1", "b@1"]
    assert await versions(stub, "metrics.accuracy > 0.9") == []
    assert await versions(stub, f"lineage.job = {PROJECT}/jobs/j", f"{PROJECT}/models/a") == [
        f"a@{n}" for n in (5, 4, 3, 2, 1)
    ]
    assert await versions(stub, "forms:weights.safetensors AND size_bytes > 0 AND version = 5") == ["a@5", "b@5"]
    assert len(await versions(stub, "")) == 10


async def test_models_are_found(stub: Any, world: World) -> None:
    for model_id, team in (("a", "vision"), ("b", "text"), ("c", "vision")):
        model = Model(labels={"team": team}, description=f"the {model_id} of {team}")
        await stub.CreateModel(pb.CreateModelRequest(parent=PROJECT, model_id=model_id, model=model))
    found = await stub.ListModels(pb.ListModelsRequest(parent=PROJECT, filter="labels.team = vision", page_size=1))
    assert [model.name for model in found.models] == [f"{PROJECT}/models/a"]
    more = pb.ListModelsRequest(
        parent=PROJECT, filter="labels.team = vision", page_size=1, page_token=found.next_page_token
    )
    assert [model.name for model in (await stub.ListModels(more)).models] == [f"{PROJECT}/models/c"]
    more.filter = "labels.team = text"
    with pytest.raises(InvalidArgument, match="PAGE_TOKEN_INVALID"):
        await stub.ListModels(more)
    found = await stub.ListModels(pb.ListModelsRequest(parent=PROJECT, filter='"THE B"'))
    assert [model.name for model in found.models] == [f"{PROJECT}/models/b"]
    with pytest.raises(InvalidArgument, match="FILTER_INVALID"):
        await stub.ListModels(pb.ListModelsRequest(parent=PROJECT, filter="metrics.accuracy > 1"))


async def test_every_change_needs_its_permission(mesh: Mesh, world: World) -> None:
    version = await world.version(await world.model())
    asked = {
        "UpdateModel": registry_pb2.UpdateModelRequest(model=Model(name=f"{PROJECT}/models/digits", description="x")),
        "UpdateModelVersion": registry_pb2.UpdateModelVersionRequest(
            model_version=ModelVersion(name=version.name, description="x")
        ),
        "TransitionModelVersionStage": registry_pb2.TransitionModelVersionStageRequest(
            name=version.name, stage=ModelVersion.STAGING
        ),
        "QuarantineModels": registry_pb2.QuarantineModelsRequest(parent=PROJECT, source="sha256:" + "0" * 64),
        "ReleaseModels": registry_pb2.ReleaseModelsRequest(parent=PROJECT, source="sha256:" + "0" * 64),
        "DeleteModelVersion": registry_pb2.DeleteModelVersionRequest(name=version.name),
    }
    for user, refusal in (("users/carol", PermissionDenied), ("users/bob", LeptonError)):
        async with mesh.client(user) as channel:
            stub: Any = InferenceServiceStub(channel)
            for method, request in asked.items():
                with pytest.raises(refusal):
                    await getattr(stub, method)(request)
    assert await world.registry.get_version(version.name) == version
    async with mesh.client("users/alice") as channel:
        stub = InferenceServiceStub(channel)
        for method in list(asked)[:5]:
            await getattr(stub, method)(asked[method])
