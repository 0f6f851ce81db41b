"""What dropped checkpoints leave in the store is deleted; what anything still uses, and what is fresh, never is."""

import asyncio
import json
import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from chassis.artifacts import ArtifactStore
from chassis.kv import Delete
from lepton import artifacts
from lepton.artifacts import CHECKPOINTS, Digest, Listed
from lepton.errors import NotFound
from lepton.internal.v1.run_report_pb2 import CheckpointWritten
from lepton.names import JobName
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import CheckpointPolicy, Job
from services.trainer.collector import Collector, unused
from services.trainer.store import checkpoint_key
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV
from tests.trainer.conftest import World

GRACE_S = 3600.0


def collector(world: World) -> Collector:
    return Collector(world.kv, world.artifacts, ManualClock(), every_s=1.0, grace_s=GRACE_S)


class Rank:
    """Stores what a rank would, as if it were long ago."""

    def __init__(self, url: str, folder: Path) -> None:
        self._store, self._folder = artifacts.ArtifactStore(url), folder

    def put(self, data: bytes, *, area: str = CHECKPOINTS, is_old: bool = True) -> Digest:
        digest = self._store.put_bytes("acme", data, area=area)
        if is_old:
            for path in self._folder.rglob(digest.removeprefix("sha256:")):
                os.utime(path, (0, 0))
        return digest

    def checkpoint(self, step: int, *contents: bytes, is_old: bool = True) -> CheckpointWritten:
        files = [{"digest": self.put(data, is_old=is_old), "size": len(data)} for data in contents]
        manifest = self.put(json.dumps({"step": step, "files": files}).encode(), is_old=is_old)
        return CheckpointWritten(step=step, manifest=manifest)


@pytest.fixture
def rank(world: World, tmp_path: Path) -> Rank:
    return Rank(world.artifacts.url, tmp_path)


async def committed(world: World, rank: Rank, job: Job, step: int, *contents: bytes) -> str:
    written = rank.checkpoint(step, *contents)
    await world.runs.commit_checkpoint(JobName.parse(job.name), 1, written)
    return written.manifest


async def has(world: World, data: bytes) -> bool:
    return await world.artifacts.exists("acme", artifacts.digest_of(data))


async def test_files_of_dropped_checkpoints_go_and_shared_ones_stay(world: World, rank: Rank) -> None:
    job = await world.submit(checkpoint_policy=CheckpointPolicy(keep_latest=1))
    await world.opened(job)
    first = await committed(world, rank, job, 1, b"weights 1", b"trunk")
    await collector(world).collect()
    assert await has(world, b"weights 1")
    await committed(world, rank, job, 2, b"weights 2", b"trunk")
    assert await collector(world).collect() == 2
    assert not await has(world, b"weights 1")
    assert not await world.artifacts.exists("acme", first)
    assert await has(world, b"weights 2")
    assert await has(world, b"trunk")


async def test_what_another_job_uses_stays(world: World, rank: Rank) -> None:
    for job_id in ("one", "two"):
        job = await world.submit(job_id)
        await world.opened(job)
        await committed(world, rank, job, 1, b"the same weights")
    await world.jobs.change(JobName("acme", "one"), lambda current: setattr(current, "state", Job.CANCELLED))
    await world.jobs.forget(JobName("acme", "one"), "")
    await collector(world).collect()
    assert await has(world, b"the same weights")


async def test_a_deleted_jobs_checkpoints_go_and_the_datasets_and_packages_stay(world: World, rank: Rank) -> None:
    job = await world.submit()
    await world.opened(job)
    await committed(world, rank, job, 1, b"weights")
    rank.put(b"weights", area="")  # somebody has stored equal bytes as something else
    rank.put(b"dataset", area="")
    await world.jobs.change(JobName.parse(job.name), lambda current: setattr(current, "state", Job.CANCELLED))
    await world.jobs.forget(JobName.parse(job.name), "")
    assert await collector(world).collect() == 2
    assert await has(world, b"weights")
    assert await has(world, b"dataset")


async def test_what_was_stored_within_the_grace_stays(world: World, rank: Rank) -> None:
    rank.put(b"about to be committed", is_old=False)
    rank.put(b"left by a rank that died")
    assert await collector(world).collect() == 1
    assert await has(world, b"about to be committed")
    hasty = Collector(world.kv, world.artifacts, ManualClock(), every_s=1.0, grace_s=-1e9)
    assert await hasty.collect() == 1, "without the grace it would be gone"


async def test_storing_equal_bytes_again_begins_the_grace_anew(world: World, rank: Rank) -> None:
    rank.put(b"frozen trunk")
    rank.put(b"frozen trunk", is_old=False)
    assert await collector(world).collect() == 0


async def test_a_manifest_that_cannot_be_read_stops_all_deletion_in_its_project(world: World, rank: Rank) -> None:
    rank.put(b"unknown")
    stray = Checkpoint(step=1, manifest="sha256:" + "0" * 64)
    await world.kv.put(checkpoint_key(JobName("acme", "j"), 1), stray.SerializeToString())
    assert await collector(world).collect() == 0
    assert await has(world, b"unknown")


async def test_a_collector_that_dies_anywhere_leaves_nothing_behind_for_good(world: World, rank: Rank) -> None:
    for number in range(4):
        rank.put(b"%d" % number)
    collecting = asyncio.ensure_future(collector(world).collect())
    for _ in range(3):
        await asyncio.sleep(0)
    collecting.cancel()
    await asyncio.gather(collecting, return_exceptions=True)
    await collector(world).collect()
    assert [await has(world, b"%d" % number) for number in range(4)] == [False] * 4


async def test_an_upload_of_what_was_a_checkpoints_file_can_still_be_read(world: World, rank: Rank) -> None:
    digest = rank.put(b"bytes")
    assert await world.artifacts.put_bytes("acme", b"bytes") == digest
    await collector(world).collect()
    assert await world.artifacts.read("acme", digest) == b"bytes"
    with pytest.raises(NotFound):
        await world.artifacts.read("other", digest)


@given(
    stored=st.dictionaries(st.integers(0, 20), st.floats(0, 100), max_size=15),
    checkpoints=st.lists(st.sets(st.integers(0, 20), max_size=5), max_size=5),
    older_than=st.floats(0, 100),
)
def test_only_what_is_old_and_in_no_checkpoint_is_unused(
    stored: dict[int, float], checkpoints: list[set[int]], older_than: float
) -> None:
    listed = [(Digest(f"d{n}"), Listed(path=f"d{n}", size=1, modified=at)) for n, at in stored.items()]
    used = {f"d{n}" for files in checkpoints for n in files}
    gone = {found.path for found in unused(listed, used, older_than)}
    assert gone.isdisjoint(used)
    assert gone == {f"d{n}" for n, at in stored.items() if at < older_than} - used


@settings(deadline=None, max_examples=25)
@given(
    steps=st.lists(st.sets(st.integers(0, 6), min_size=1, max_size=3), min_size=1, max_size=6), keep=st.integers(1, 3)
)
def test_every_kept_checkpoint_is_whole_after_every_collection(
    tmp_path_factory: pytest.TempPathFactory, steps: list[set[int]], keep: int
) -> None:
    folder = tmp_path_factory.mktemp("store")

    async def play() -> None:
        async with MemoryKV() as kv:
            store = ArtifactStore(f"file://{folder}")
            rank, kept = Rank(store.url, folder), []
            collecting = Collector(kv, store, ManualClock(), every_s=1.0, grace_s=GRACE_S)
            for step, files in enumerate(steps):
                written = rank.checkpoint(step, *(b"%d" % file for file in sorted(files)))
                key = checkpoint_key(JobName("acme", "j"), step)
                await kv.put(key, Checkpoint(step=step, manifest=written.manifest).SerializeToString())
                kept.append((key, files))
                if len(kept) > keep:
                    await kv.txn([], [Delete(kept.pop(0)[0])])
                await collecting.collect()
                present = {n for n in range(7) if await store.exists("acme", artifacts.digest_of(b"%d" % n))}
                assert present == set().union(*(files for _, files in kept))

    asyncio.run(play())
