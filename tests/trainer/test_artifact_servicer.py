"""Artifacts go in as announced or not at all, and come out as they went in."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chassis.clock import SystemClock
from lepton.artifacts import digest_of
from lepton.errors import InvalidArgument, LeptonError, NotFound, PermissionDenied
from lepton.names import ArtifactName
from lepton.trainer.v1 import artifact_service_pb2 as pb
from lepton.trainer.v1.artifact_service_pb2_grpc import ArtifactServiceStub, add_ArtifactServiceServicer_to_server
from services.trainer.artifact_servicer import ArtifactServicer
from services.trainer.transfer_limits import Limits, TransferLimits
from services.trainer.uploads import Uploads
from tests.harness.mesh import ROLES, Mesh, serving
from tests.trainer.conftest import World

LIMIT = 3_000_000
DATA = bytes(range(256)) * 4000


@pytest.fixture
async def mesh(world: World) -> AsyncIterator[Mesh]:
    limits = TransferLimits(world.artifacts, SystemClock(), Limits(largest_bytes=LIMIT, project_bytes=4 * LIMIT))
    servicer = ArtifactServicer(world.artifacts, Uploads(world.kv, world.artifacts, SystemClock()), limits)
    async with serving((add_ArtifactServiceServicer_to_server, servicer)) as mesh:
        developer = ROLES["roles/developer"] | {"artifacts.*"}
        mesh.change_policy(roles={**ROLES, "roles/developer": developer})
        yield mesh


async def upload(
    mesh: Mesh, data: bytes, *, digest: str = "", parent: str = "projects/acme", user: str = "users/alice"
) -> pb.Artifact:
    async def chunks() -> AsyncIterator[pb.UploadArtifactRequest]:
        yield pb.UploadArtifactRequest(parent=parent, digest=digest)
        for begin in range(0, len(data), 500_000):
            yield pb.UploadArtifactRequest(data=data[begin : begin + 500_000])

    async with mesh.client(user) as channel:
        stub: Any = ArtifactServiceStub(channel)
        artifact: pb.Artifact = await stub.UploadArtifact(chunks())
        return artifact


async def download(mesh: Mesh, name: str, offset: int = 0, user: str = "users/alice") -> bytes:
    async with mesh.client(user) as channel:
        stub: Any = ArtifactServiceStub(channel)
        stream = stub.DownloadArtifact(pb.DownloadArtifactRequest(name=name, offset=offset))
        return b"".join([chunk.data async for chunk in stream])


@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["empty", "small", "many chunks"])
async def test_what_goes_in_comes_out(mesh: Mesh, data: bytes) -> None:
    artifact = await upload(mesh, data, digest=digest_of(data))
    assert (artifact.digest, artifact.size_bytes) == (digest_of(data), len(data))
    assert await download(mesh, artifact.name) == data


async def test_a_download_goes_on_where_it_broke(mesh: Mesh) -> None:
    artifact = await upload(mesh, DATA)
    for offset in (1, 300_000, len(DATA), len(DATA) + 5):
        assert await download(mesh, artifact.name, offset) == DATA[offset:]


async def test_what_is_not_what_was_announced_is_not_kept(mesh: Mesh, world: World) -> None:
    with pytest.raises(InvalidArgument, match="DIGEST_MISMATCH"):
        await upload(mesh, DATA, digest=digest_of(b"else"))
    assert not await world.artifacts.exists("acme", digest_of(DATA))


async def test_what_is_too_large_is_not_kept(mesh: Mesh, world: World) -> None:
    data = b"x" * (LIMIT + 1)
    with pytest.raises(InvalidArgument, match="ARTIFACT_TOO_LARGE"):
        await upload(mesh, data)
    assert not await world.artifacts.exists("acme", digest_of(data))


async def test_an_upload_without_a_message_is_refused(mesh: Mesh) -> None:
    async def nothing() -> AsyncIterator[pb.UploadArtifactRequest]:
        return
        yield

    async with mesh.client("users/root") as channel:
        with pytest.raises(LeptonError) as caught:
            await ArtifactServiceStub(channel).UploadArtifact(nothing())
    assert not isinstance(caught.value, AssertionError)
    assert caught.value.reason != "INTERNAL"


async def test_projects_do_not_see_each_others_artifacts(mesh: Mesh) -> None:
    artifact = await upload(mesh, DATA)
    there = str(ArtifactName("other", ArtifactName.parse(artifact.name).artifact))
    with pytest.raises(NotFound):
        await upload(mesh, DATA, parent="projects/other")
    with pytest.raises(PermissionDenied):
        await upload(mesh, DATA, user="users/carol")
    with pytest.raises(NotFound) as foreign:
        await download(mesh, artifact.name, user="users/bob")
    with pytest.raises(NotFound) as absent:
        await download(mesh, there, user="users/bob")
    assert foreign.value.reason == absent.value.reason == "ARTIFACT_NOT_FOUND"
    assert foreign.value.message.replace("acme", "other") == absent.value.message


async def test_what_is_not_there_is_not_found(mesh: Mesh) -> None:
    name = str(ArtifactName("acme", "0" * 64))
    async with mesh.client() as channel:
        with pytest.raises(NotFound, match="ARTIFACT_NOT_FOUND"):
            await ArtifactServiceStub(channel).GetArtifact(pb.GetArtifactRequest(name=name))
    with pytest.raises(NotFound):
        await download(mesh, name)


async def test_bytes_that_have_rotted_are_not_served(mesh: Mesh, tmp_path: Path) -> None:
    artifact = await upload(mesh, DATA)
    stored = next((tmp_path / "artifacts").rglob(ArtifactName.parse(artifact.name).artifact))
    stored.write_bytes(b"!" + DATA[1:])
    with pytest.raises(LeptonError, match="ARTIFACT_CORRUPT"):
        await download(mesh, artifact.name)
