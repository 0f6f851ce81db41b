"""Models and versions: numbered without a gap, never changed, named by aliases that move safely."""

import asyncio
import dataclasses
import json

import pytest

from chassis.etcd import EtcdKV
from lepton.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.models.package import GOLDEN
from tests.harness.etcd import EtcdCluster
from tests.inference.conftest import PROJECT, World, deployment_request, version_request


async def test_a_version_says_what_the_package_says(world: World) -> None:
    model = await world.model()
    version = await world.version(model)
    assert version.name == f"{model.name}/versions/1"
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in version.inputs] == [
        ("x", "FP32", [-1, 1, 8, 8])
    ]
    assert (version.metrics["accuracy"], version.lineage.job) == (0.9, "projects/acme/jobs/j")
    assert await world.registry.get_version(version.name) == version


async def test_versions_registered_together_are_numbered_without_a_gap(world: World) -> None:
    model = await world.model()
    packages = [await world.package(extra=await world.artifacts.put_bytes("acme", bytes([at]))) for at in range(30)]
    versions = await asyncio.gather(
        *(world.registry.create_version(version_request(model, package)) for package in packages)
    )
    assert sorted(int(version.name.rpartition("/")[2]) for version in versions) == list(range(1, 31))
    for version, package in zip(versions, packages, strict=True):
        assert (await world.registry.get_version(version.name)).package == package


async def test_a_repeated_registration_is_one_version(world: World) -> None:
    model = await world.model()
    request = version_request(model, await world.package())
    answers = await asyncio.gather(*(world.registry.create_version(request) for _ in range(5)))
    assert {answer.name for answer in answers} == {f"{model.name}/versions/1"}
    assert (await world.registry.get_model(model.name)).latest_version == 1
    again = await world.registry.create_version(request)
    assert again == answers[0]


async def test_a_model_is_made_once(world: World) -> None:
    request = pb.CreateModelRequest(parent=PROJECT, model_id="a", request_id="0b9f2fb0-4f5b-4e59-8fc8-0d64f4a2c9b1")
    assert await world.registry.create_model(request) == await world.registry.create_model(request)
    with pytest.raises(AlreadyExists, match="MODEL_ALREADY_EXISTS"):
        await world.model("a")


async def test_a_version_needs_its_model_and_its_package(world: World) -> None:
    model = await world.model()
    with pytest.raises(NotFound, match="MODEL_NOT_FOUND"):
        await world.registry.create_version(
            pb.CreateModelVersionRequest(parent=f"{PROJECT}/models/nobody", model_version={"package": "x"})  # type: ignore[arg-type]
        )
    with pytest.raises(InvalidArgument, match="PACKAGE_INVALID"):
        await world.registry.create_version(version_request(model, "sha256:" + "0" * 64))


@pytest.mark.parametrize(
    "data", [b"text", b"{}", b"[" * 50_000, b" " * 300_000], ids=["text", "empty", "deep", "large"]
)
async def test_a_package_that_is_none_is_refused(world: World, data: bytes) -> None:
    model = await world.model()
    digest = await world.artifacts.put_bytes("acme", data)
    with pytest.raises(InvalidArgument, match="PACKAGE_INVALID"):
        await world.registry.create_version(version_request(model, digest))
    assert (await world.registry.get_model(model.name)).latest_version == 0


async def test_a_package_with_a_missing_file_is_refused(world: World) -> None:
    model = await world.model()
    with pytest.raises(InvalidArgument, match="PACKAGE_INVALID"):
        await world.version(model, **{GOLDEN: "sha256:" + "0" * 64})
    document = json.loads(await world.artifacts.read("acme", await world.package()))
    del document["files"][GOLDEN]
    digest = await world.artifacts.put_bytes("acme", json.dumps(document).encode())
    with pytest.raises(InvalidArgument) as caught:
        await world.registry.create_version(version_request(model, digest))
    assert GOLDEN in caught.value.fields["model_version.package"]


async def test_a_package_of_another_project_is_not_there(world: World) -> None:
    model = await world.model()
    with pytest.raises(InvalidArgument, match="PACKAGE_INVALID"):
        await world.registry.create_version(version_request(model, await world.package("other")))


async def test_a_version_is_named_by_number_alias_or_latest(world: World) -> None:
    model = await world.model()
    for _ in range(3):
        await world.version(model)
    await world.registry.set_alias(pb.SetModelAliasRequest(name=model.name, alias="champion", version=2))

    async def number(word: str) -> str:
        return (await world.registry.get_version(f"{model.name}/versions/{word}")).name.rpartition("/")[2]

    assert [await number(word) for word in ("1", "champion", "latest")] == ["1", "2", "3"]


@pytest.mark.parametrize("word", ["0", "4", "01", "nobody", "999999999", "latest"])
async def test_a_version_that_is_not_there_is_not_found_by_the_name_that_was_asked_for(world: World, word: str) -> None:
    model = await world.model()
    asked = f"{model.name}/versions/{word}"
    with pytest.raises(NotFound) as caught:
        await world.registry.get_version(asked)
    assert caught.value.metadata == {"version": asked}


async def test_an_alias_moves_only_from_what_was_read(world: World) -> None:
    model = await world.model()
    for _ in range(2):
        await world.version(model)
    read = await world.registry.get_model(model.name)

    async def move(version: int) -> object:
        request = pb.SetModelAliasRequest(name=model.name, alias="champion", version=version, etag=read.etag)
        return await world.registry.set_alias(request)

    outcomes = await asyncio.gather(move(1), move(2), return_exceptions=True)
    assert sum(isinstance(outcome, Aborted) for outcome in outcomes) == 1
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await move(1)


async def test_an_alias_can_be_removed_and_cannot_name_what_is_not_there(world: World) -> None:
    model = await world.model()
    await world.version(model)
    ask = pb.SetModelAliasRequest
    await world.registry.set_alias(ask(name=model.name, alias="champion", version=1))
    assert not (await world.registry.set_alias(ask(name=model.name, alias="champion"))).aliases
    assert not (await world.registry.set_alias(ask(name=model.name, alias="champion"))).aliases
    with pytest.raises(NotFound, match="VERSION_NOT_FOUND"):
        await world.registry.set_alias(ask(name=model.name, alias="champion", version=2))
    with pytest.raises(InvalidArgument):
        await world.registry.set_alias(ask(name=model.name, alias="latest", version=1))
    with pytest.raises(NotFound, match="MODEL_NOT_FOUND"):
        await world.registry.set_alias(ask(name=f"{PROJECT}/models/nobody", alias="champion"))


async def test_a_model_is_deleted_with_its_versions_and_begins_anew(world: World) -> None:
    model = await world.model()
    version = await world.version(model)
    await world.registry.delete_model(pb.DeleteModelRequest(name=model.name))
    with pytest.raises(NotFound):
        await world.registry.get_version(version.name)
    assert (await world.kv.list("/lepton/inference/versions/")).entries == ()
    assert (await world.version(await world.model())).name == version.name


async def test_a_model_that_is_deployed_stays(world: World) -> None:
    deployment = await world.deployed()
    model = deployment.model_version.partition("/versions/")[0]
    with pytest.raises(FailedPrecondition, match="MODEL_DEPLOYED"):
        await world.registry.delete_model(pb.DeleteModelRequest(name=model))


async def test_a_model_is_not_deleted_under_a_deployment_that_is_being_made(world: World) -> None:
    for turns in range(16):
        model = await world.model(f"m{turns}")
        version = await world.version(model)
        creating = asyncio.ensure_future(world.served.create(deployment_request(version.name, f"d{turns}")))
        for _ in range(turns):
            await asyncio.sleep(0)
        deleting = world.registry.delete_model(pb.DeleteModelRequest(name=model.name))
        made, deleted = await asyncio.gather(creating, deleting, return_exceptions=True)
        assert isinstance(made, BaseException) != isinstance(deleted, BaseException), (turns, made, deleted)


@pytest.mark.integration
async def test_over_etcd_too_versions_are_numbered_without_a_gap(world: World, own_etcd: EtcdCluster) -> None:
    async with EtcdKV(own_etcd.endpoints) as kv:
        there = dataclasses.replace(world, kv=kv)
        model = await there.model()
        made = await asyncio.gather(*(there.version(model) for _ in range(20)))
    assert sorted(int(version.name.rpartition("/")[2]) for version in made) == list(range(1, 21))
