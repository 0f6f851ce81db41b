"""An upload goes on at the byte it broke at, whatever broke it; nobody sees it before it is whole and right."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chassis.artifacts import ArtifactStore
from chassis.clock import SystemClock
from lepton.artifacts import digest_of
from lepton.client import AsyncClient
from lepton.errors import Aborted, InvalidArgument, NotFound, ResourceExhausted
from lepton.names import ProjectName
from lepton.trainer.v1 import artifact_service_pb2 as pb
from services.trainer.collector import Collector
from services.trainer.transfer_limits import Limits
from services.trainer.uploads import Uploads
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV
from tests.harness.registry import PART, registry_lepton
from tests.harness.seeds import some_seed
from tests.harness.wait import until

ACME = ProjectName("acme")
SEED = some_seed()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[tuple[Uploads, ArtifactStore, MemoryKV]]:
    async with MemoryKV() as kv:
        artifacts = ArtifactStore(f"file://{tmp_path}/store")
        yield Uploads(kv, artifacts, SystemClock(), part_bytes=1000), artifacts, kv


class Cut(Exception):
    """The connection is gone."""


async def pieces(data: bytes, chance: random.Random, until: int | None) -> AsyncIterator[pb.UploadArtifactRequest]:
    at = 0
    while at < len(data):
        size = min(chance.randrange(1, 700), len(data) - at, (len(data) if until is None else until) - at)
        if size <= 0:
            raise Cut
        yield pb.UploadArtifactRequest(data=data[at : at + size])
        at += size
        if chance.random() < 0.2:
            await asyncio.sleep(0)


async def send(uploads: Uploads, data: bytes, chance: random.Random, *, cut: bool, digest: str = "") -> None:
    digest = digest or digest_of(data)
    offset = (await uploads.status(ACME, digest)).committed_bytes
    rest = data[offset:]
    first = pb.UploadArtifactRequest(parent=str(ACME), digest=digest, size_bytes=len(data), offset=offset)
    until = chance.randrange(0, len(rest)) if cut and rest else None
    await uploads.receive(first, pieces(rest, chance, until), ACME)


async def test_whatever_it_is_cut_at_it_goes_on_there(place: tuple[Uploads, ArtifactStore, MemoryKV]) -> None:
    uploads, artifacts, kv = place
    for turn in range(15):
        chance = random.Random(SEED + turn)
        data = chance.randbytes(chance.randrange(1, 6000))
        committed = 0
        for _ in range(chance.randrange(0, 8)):
            with pytest.raises(Cut):
                await send(uploads, data, chance, cut=True)
            status = await uploads.status(ACME, digest_of(data))
            assert committed <= status.committed_bytes < len(data), (SEED, turn)
            assert not status.done
            assert not await artifacts.exists("acme", digest_of(data)), (SEED, turn)
            committed = status.committed_bytes
        await send(uploads, data, chance, cut=False)
        assert await artifacts.read("acme", digest_of(data)) == data, (SEED, turn)
        assert (await uploads.status(ACME, digest_of(data))).done
    assert not (await kv.list("/lepton/trainer/uploads/")).entries


async def test_wrong_bytes_are_refused_and_leave_nothing(place: tuple[Uploads, ArtifactStore, MemoryKV]) -> None:
    uploads, artifacts, kv = place
    right = b"right" * 1000
    with pytest.raises(InvalidArgument, match="DIGEST_MISMATCH"):
        await send(uploads, b"wrong" * 1000, random.Random(1), cut=False, digest=digest_of(right))
    for data in (right, b"wrong" * 1000):
        assert not await artifacts.exists("acme", digest_of(data))
    assert not (await kv.list("/lepton/trainer/uploads/")).entries
    await send(uploads, right, random.Random(2), cut=False)
    assert await artifacts.read("acme", digest_of(right)) == right


async def test_more_than_was_announced_is_refused(place: tuple[Uploads, ArtifactStore, MemoryKV]) -> None:
    uploads, artifacts, _ = place
    data = b"x" * 2500
    first = pb.UploadArtifactRequest(parent=str(ACME), digest=digest_of(data), size_bytes=2000)
    with pytest.raises(InvalidArgument, match="2000 bytes announced"):
        await uploads.receive(first, pieces(data, random.Random(3), None), ACME)
    assert not await artifacts.exists("acme", digest_of(data))


async def test_two_clients_of_one_artifact_do_not_mix(place: tuple[Uploads, ArtifactStore, MemoryKV]) -> None:
    uploads, artifacts, _ = place
    data = random.Random(4).randbytes(20_000)

    async def client(number: int) -> None:
        while not (await uploads.status(ACME, digest_of(data))).done:
            with suppress(Aborted):  # UPLOAD_MOVED: the other was faster
                await send(uploads, data, random.Random(number), cut=False)

    await asyncio.gather(*(client(number) for number in range(4)))
    assert await artifacts.read("acme", digest_of(data)) == data


async def overtaken(place: tuple[Uploads, ArtifactStore, MemoryKV], data: bytes, other: bytes) -> None:
    """A client that has sent a half while another one sends `other` as the rest, to the end; then it goes on itself."""
    uploads, _, _ = place
    half = len(data) // 2
    first = pb.UploadArtifactRequest(parent=str(ACME), digest=digest_of(data), size_bytes=len(data))

    async def slow() -> AsyncIterator[pb.UploadArtifactRequest]:
        yield pb.UploadArtifactRequest(data=data[:half])
        again = pb.UploadArtifactRequest(parent=str(ACME), digest=digest_of(data), size_bytes=len(data), offset=half)
        with suppress(InvalidArgument):
            await uploads.receive(again, pieces(other, random.Random(5), None), ACME)
        yield pb.UploadArtifactRequest(data=data[half:])

    await uploads.receive(first, slow(), ACME)


async def test_who_is_overtaken_by_another_that_ends_has_an_artifact_too(
    place: tuple[Uploads, ArtifactStore, MemoryKV],
) -> None:
    """The other's end takes away the parts: what is sent then follows on nothing, and must not count as wrong bytes."""
    _, artifacts, kv = place
    data = random.Random(6).randbytes(20_000)
    await overtaken(place, data, data[10_000:])
    assert await artifacts.read("acme", digest_of(data)) == data
    assert not (await kv.list("/lepton/trainer/uploads/")).entries


async def test_who_is_overtaken_by_wrong_bytes_begins_again(place: tuple[Uploads, ArtifactStore, MemoryKV]) -> None:
    uploads, artifacts, _ = place
    data = random.Random(7).randbytes(20_000)
    with pytest.raises(Aborted, match="UPLOAD_MOVED"):
        await overtaken(place, data, bytes(10_000))
    await send(uploads, data, random.Random(8), cut=False)
    assert await artifacts.read("acme", digest_of(data)) == data


async def test_a_part_is_no_artifact(place: tuple[Uploads, ArtifactStore, MemoryKV]) -> None:
    uploads, artifacts, kv = place
    data = b"a" * 1000 + b"b" * 1000
    first = pb.UploadArtifactRequest(parent=str(ACME), digest=digest_of(data), size_bytes=2000)
    await uploads.receive(first, pieces(data[:1000], random.Random(5), None), ACME)
    assert (await uploads.status(ACME, digest_of(data))).committed_bytes == 1000
    for part in (data[:1000], data):
        assert not await artifacts.exists("acme", digest_of(part))
        with pytest.raises(NotFound):
            await artifacts.read("acme", digest_of(part))
    (entry,) = (await kv.list("/lepton/trainer/uploads/")).entries
    assert entry.lease, "parts that nobody finishes run out"


async def test_the_client_goes_on_after_the_service_was_killed_again_and_again(tmp_path: Path) -> None:
    data = np.random.default_rng(SEED).bytes(40 * PART)
    (tmp_path / "file").write_bytes(data)
    async with registry_lepton(tmp_path) as (world, _), AsyncClient(world.profile, api_key="lpk_good") as client:
        told: list[int] = []
        uploading = asyncio.create_task(
            client.artifacts.upload(tmp_path / "file", progress=lambda done, _all: told.append(done))
        )
        kills = 0
        while not uploading.done() and kills < 4:
            seen = len(told)
            await until(lambda: len(told) > seen or uploading.done(), 30.0)  # noqa: B023
            if not uploading.done():
                await world.kill("trainer")
                await world.restart("trainer")
                kills += 1
        artifact = await uploading
        assert kills
        assert await client.artifacts.download(artifact.digest) == data


async def test_a_second_program_goes_on_where_the_first_was_cut_off(tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(40 * PART)
    async with registry_lepton(tmp_path) as (world, _), AsyncClient(world.profile, api_key="lpk_good") as client:
        digest = digest_of(data)

        async def half() -> AsyncIterator[pb.UploadArtifactRequest]:
            yield pb.UploadArtifactRequest(parent="projects/acme", digest=digest, size_bytes=len(data))
            for at in range(0, 20 * PART, PART):
                yield pb.UploadArtifactRequest(data=data[at : at + PART])
            await asyncio.Event().wait()

        async def committed() -> bool:
            request = pb.GetUploadRequest(parent="projects/acme", digest=digest)
            return bool((await client.artifacts._stub.GetUpload(request)).committed_bytes >= 19 * PART)

        await client.artifacts.upload(b"signs in")
        stub: Any = client.artifacts._stub
        cut_off = stub.UploadArtifact(half(), timeout=60)
        await until(committed, 30.0)
        cut_off.cancel()
        told: list[int] = []
        artifact = await client.artifacts.upload(data, progress=lambda done, _all: told.append(done))
        assert told[0] >= 19 * PART
        assert artifact.size_bytes == len(data)
        # Downloads go on as well: half of it lies there from a program that was cut off.
        (tmp_path / f".downloading-{digest.removeprefix('sha256:')}").write_bytes(data[: 7 * PART])
        await client.artifacts.download_to(digest, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
        assert [request.offset for request in world.requests("DownloadArtifact")] == [7 * PART]


async def test_limits_are_kept_and_said(tmp_path: Path) -> None:
    limits = Limits(largest_bytes=3 << 20, project_bytes=4 << 20, transfers=1)
    async with (
        registry_lepton(tmp_path, limits=limits) as (world, _),
        AsyncClient(world.profile, api_key="lpk_good", patience_s=0.0) as client,
    ):
        with pytest.raises(InvalidArgument, match="ARTIFACT_TOO_LARGE"):
            await client.artifacts.upload(b"x" * (3 << 20) + b"y")
        await client.artifacts.upload(b"a" * (2 << 20))
        with pytest.raises(ResourceExhausted) as full:
            await client.artifacts.upload(b"b" * (5 << 19))
        assert full.value.reason == "ARTIFACT_QUOTA_EXCEEDED"
        assert full.value.metadata["limit_bytes"] == str(4 << 20)
        await client.artifacts.upload(b"c" * 1000)  # what fits still goes


async def test_what_nobody_finishes_is_deleted_after_a_day(tmp_path: Path) -> None:
    def parts() -> list[Path]:
        return list(tmp_path.rglob("uploads/sha256/*/*"))

    async with MemoryKV() as kv:
        artifacts = ArtifactStore(f"file://{tmp_path}/store")
        clock = ManualClock()
        await artifacts.put_part("acme", b"part")
        collector = Collector(kv, artifacts, clock, every_s=1.0, grace_s=1.0)
        await collector.collect()
        (part,) = parts()
        long_ago = clock.now().timestamp() - 26 * 3600
        os.utime(part, (long_ago, long_ago))
        await collector.collect()
        assert not parts()
