"""What changes about a version after it was made, and what protects it: stages, tags, etags, deletion."""

import asyncio
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lepton.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1 import inference_service_pb2 as service_pb
from lepton.inference.v1 import registry_pb2 as pb
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.models.package import ModelPackage
from lepton.names import ModelName, OptimizationName
from services.inference.model_versions import ModelVersions
from services.inference.optimizations.keys import optimization_key
from tests.inference.conftest import World, deployment_request


@pytest.fixture
def changes(world: World) -> ModelVersions:
    return ModelVersions(world.kv, world.registry)


def move(version: ModelVersion, stage: Any, **options: Any) -> pb.TransitionModelVersionStageRequest:
    return pb.TransitionModelVersionStageRequest(name=version.name, stage=stage, **options)


async def test_what_is_said_of_a_model_changes_field_by_field(world: World, changes: ModelVersions) -> None:
    model = await world.model()

    async def update(*paths: str, **fields: Any) -> Model:
        changed = Model(name=model.name, **fields)
        return await changes.update_model(pb.UpdateModelRequest(model=changed, update_mask=FieldMask(paths=paths)))

    assert (await update(description="digits", labels={"team": "vision"})).labels == {"team": "vision"}
    found = await update(
        "tags", "deletion_protection", tags={"owner": "ada"}, deletion_protection=True, description="no"
    )
    assert (found.description, dict(found.tags), found.deletion_protection) == ("digits", {"owner": "ada"}, True)
    assert not (await update("labels")).labels
    assert (await update("*", display_name="Digits")).description == ""
    for path in ("aliases", "latest_version", "uid", "nothing"):
        with pytest.raises(InvalidArgument, match="cannot be changed"):
            await update(path)
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await update("description", etag='"1"')
    with pytest.raises(NotFound):
        await changes.update_model(pb.UpdateModelRequest(model=Model(name=f"{model.name}x", description="y")))


async def test_a_version_itself_never_changes(world: World, changes: ModelVersions) -> None:
    version = await world.version(await world.model())

    async def update(*paths: str, **fields: Any) -> ModelVersion:
        given = ModelVersion(name=version.name, **fields)
        return await changes.update_version(
            pb.UpdateModelVersionRequest(model_version=given, update_mask=FieldMask(paths=paths))
        )

    changed = await update(tags={"reviewed": "yes"}, description="good", package="sha256:" + "0" * 64)
    assert (dict(changed.tags), changed.description, changed.package) == ({"reviewed": "yes"}, "good", version.package)
    assert changed.etag != version.etag
    for path in ("package", "metrics", "lineage", "stage", "quarantine"):
        with pytest.raises(InvalidArgument, match="cannot be changed"):
            await update(path)
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await update("tags", etag=version.etag)


async def test_stages_move_and_the_one_before_is_archived(world: World, changes: ModelVersions) -> None:
    model = await world.model()
    first, second, third = [await world.version(model) for _ in range(3)]
    assert first.stage == ModelVersion.NONE
    await changes.transition(move(first, ModelVersion.PRODUCTION))
    await changes.transition(move(second, ModelVersion.STAGING))
    moved = await changes.transition(move(third, ModelVersion.PRODUCTION, archive_existing=True))
    assert moved.stage == ModelVersion.PRODUCTION
    stages = [(await world.registry.get_version(each.name)).stage for each in (first, second, third)]
    assert stages == [ModelVersion.ARCHIVED, ModelVersion.STAGING, ModelVersion.PRODUCTION]
    with pytest.raises(InvalidArgument, match="NONE, STAGING, PRODUCTION or ARCHIVED"):
        await changes.transition(move(third, ModelVersion.STAGE_UNSPECIFIED))
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await changes.transition(move(third, ModelVersion.NONE, etag=third.etag))


async def test_a_version_that_somebody_needs_stays(world: World, changes: ModelVersions) -> None:
    model = await world.model()
    aliased, served, free = [await world.version(model) for _ in range(3)]
    await world.registry.set_alias(service_pb.SetModelAliasRequest(name=model.name, alias="champion", version=1))
    await world.served.create(deployment_request(served.name))

    async def delete(version: ModelVersion, **options: Any) -> None:
        await changes.delete(pb.DeleteModelVersionRequest(name=version.name, **options))

    for version, user in ((aliased, "the alias champion"), (served, "deployments/digits")):
        with pytest.raises(FailedPrecondition) as refused:
            await delete(version)
        assert refused.value.reason == "VERSION_IN_USE"
        assert user in refused.value.metadata["user"]
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await delete(free, etag='"1"')
    await delete(free)
    with pytest.raises(NotFound):
        await world.registry.get_version(free.name)
    with pytest.raises(NotFound):
        await delete(free)
    assert (await world.registry.get_version(f"{model.name}/versions/latest")).name == served.name
    assert (await world.version(model)).name.endswith("/4"), "a number is not given out again"
    with pytest.raises(InvalidArgument, match="by its number"):
        await changes.delete(pb.DeleteModelVersionRequest(name=f"{model.name}/versions/champion"))


async def test_a_version_that_is_being_optimised_stays_until_that_has_ended(
    world: World, changes: ModelVersions
) -> None:
    version = await world.version(await world.model())
    name = OptimizationName("acme", "digits", "o")
    search = Optimization(name=str(name), model_version=version.name, state=Optimization.RUNNING)
    await world.kv.put(optimization_key(name), search.SerializeToString())
    with pytest.raises(FailedPrecondition, match="VERSION_IN_USE"):
        await changes.delete(pb.DeleteModelVersionRequest(name=version.name))
    search.state = Optimization.SUCCEEDED
    await world.kv.put(optimization_key(name), search.SerializeToString())
    await changes.delete(pb.DeleteModelVersionRequest(name=version.name))


async def test_a_protected_model_stays_with_all_its_versions(world: World, changes: ModelVersions) -> None:
    model = await world.model()
    version = await world.version(model)
    protected = Model(name=model.name, deletion_protection=True)
    await changes.update_model(pb.UpdateModelRequest(model=protected))
    with pytest.raises(FailedPrecondition, match="DELETION_PROTECTED"):
        await changes.delete(pb.DeleteModelVersionRequest(name=version.name))
    with pytest.raises(FailedPrecondition, match="DELETION_PROTECTED"):
        await world.registry.delete_model(service_pb.DeleteModelRequest(name=model.name))
    mask = FieldMask(paths=["deletion_protection"])
    await changes.update_model(pb.UpdateModelRequest(model=Model(name=model.name), update_mask=mask))
    await world.registry.delete_model(service_pb.DeleteModelRequest(name=model.name))


async def test_a_version_is_not_deleted_under_whoever_begins_to_need_it(world: World, changes: ModelVersions) -> None:
    for turns in range(12):
        model = await world.model(f"m{turns}")
        version = await world.version(model)
        naming = world.registry.set_alias(service_pb.SetModelAliasRequest(name=model.name, alias="a", version=1))
        serving = world.served.create(deployment_request(version.name, f"d{turns}"))
        using = asyncio.ensure_future(naming if turns % 2 else serving)
        if turns % 2:
            serving.close()
        else:
            naming.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        deleting = changes.delete(pb.DeleteModelVersionRequest(name=version.name))
        used, deleted = await asyncio.gather(using, deleting, return_exceptions=True)
        assert isinstance(used, BaseException) or isinstance(deleted, BaseException), (turns, used, deleted)


async def test_a_package_in_hand_is_registered_once(world: World) -> None:
    model = await world.model()
    package = ModelPackage.parse(await world.artifacts.read("acme", await world.package()))
    request_id = "0b9f2fb0-4f5b-4e59-8fc8-0d64f4a2c9b1"
    name = ModelName.parse(model.name)
    made = await asyncio.gather(
        *(world.registry.register(name, package, request_id=request_id, tags={"a": "b"}) for _ in range(3))
    )
    assert {version.name for version in made} == {f"{model.name}/versions/1"}
    assert dict(made[0].tags) == {"a": "b"}
    assert made[0].forms == ["weights.safetensors"]
    assert made[0].size_bytes > 0
    assert set(made[0].files) == {"weights.safetensors", "golden.safetensors"}
