"""The trainer seals what is stored by the newest keys, and former keys go when nothing needs them any more."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chassis.artifact_keys import ArtifactKeys, ask_auth
from chassis.artifacts import ArtifactStore
from lepton import artifacts
from lepton.artifacts import CHECKPOINTS, Cipher, KeyFile
from lepton.auth.v1 import encryption_service_pb2 as pb
from lepton.auth.v1.directory_service_pb2 import CreateProjectRequest
from lepton.internal.v1.project_keys_pb2 import GetArtifactKeysRequest
from services.auth.key_providers import ProjectKeySettings
from services.trainer.rewrapper import Rewrapper
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV

ACME = "projects/acme"
SETTLED = timedelta(hours=1)


@dataclass
class World:
    """A real auth, a store, and the trainer's part between them, whose clock is ahead of auth's."""

    auth: RunningAuth
    encryption: Any
    store: ArtifactStore
    rewrapper: Rewrapper
    keys_now: Callable[[], Any]
    url: str

    async def opened(self, keys: dict[str, bytes], digest: str) -> bytes:
        """An artifact, by these keys alone."""
        return artifacts.ArtifactStore(self.url, Cipher(KeyFile.of(keys))).read("acme", digest)


@pytest_asyncio.fixture(params=[timedelta(0), 2 * SETTLED], ids=["at once", "when it is settled"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    settings = ProjectKeySettings(retire_after_s=SETTLED.total_seconds())
    async with MemoryKV() as kv, running_auth(kv, tmp_path, project_keys=settings) as auth:
        admin = await auth.admin()
        await admin.directory.CreateProject(CreateProjectRequest(project_id="acme"))
        await admin.directory.CreateProject(CreateProjectRequest(project_id="rival"))
        yield await _world(auth, admin, tmp_path, request.param)


async def _world(auth: RunningAuth, admin: Any, folder: Path, ahead: timedelta) -> World:
    peer = await auth.peer(await auth.join("service/trainer"))
    clock = ManualClock(auth.clock.now() + ahead)
    url = f"file://{folder}/artifacts"
    keys = ArtifactKeys(ask_auth(peer.connection), clock)
    store = ArtifactStore(f"{url}#keys=project", keys)

    async def keys_now() -> dict[str, bytes]:
        answer = await peer.project_keys.GetArtifactKeys(GetArtifactKeysRequest(project=ACME))
        return {each.key_id: each.key for each in answer.keys}

    rewrapper = Rewrapper(store, keys, peer.connection, clock, every_s=1.0)
    return World(auth, admin.encryption, store, rewrapper, keys_now, url)


async def test_a_round_wraps_all_by_the_newest_key_and_lets_the_former_go_in_time(
    world: World, request: pytest.FixtureRequest
) -> None:
    first = await world.store.put_bytes("acme", b"first")
    part = await world.store.put_part("acme", b"part")
    other = await world.store.put_bytes("rival", b"other")
    former = await world.keys_now()
    checkpoint = artifacts.ArtifactStore(world.url, Cipher(KeyFile.of(former)))
    shard = checkpoint.put_bytes("acme", b"shard", area=CHECKPOINTS)
    await world.encryption.RotateProjectKeys(pb.RotateProjectKeysRequest(project=ACME))
    await world.rewrapper.round()
    now = await world.keys_now()
    newest = dict([next(iter(now.items()))])
    assert not set(newest) & set(former)
    for digest, data in ((first, b"first"), (shard, b"shard")):
        assert await world.opened(newest, digest) == data
    assert artifacts.ArtifactStore(world.url, Cipher(KeyFile.of(newest))).read_part("acme", part) == b"part"
    is_settled = "settled" in request.node.name
    assert (set(now) == set(newest)) == is_settled  # the control: before its time the former key stays
    assert await world.store.read("rival", other) == b"other"
    await world.rewrapper.round()
    assert await world.store.read("acme", first) == b"first"


async def test_a_former_key_stays_while_something_cannot_be_wrapped_anew(world: World) -> None:
    await world.store.put_bytes("acme", b"first")
    stranger = artifacts.ArtifactStore(world.url, Cipher(KeyFile.of({"stranger": b"s" * 32})))
    stranger.put_bytes("acme", b"of a key that is lost")
    await world.encryption.RotateProjectKeys(pb.RotateProjectKeysRequest(project=ACME))
    await world.rewrapper.round()
    assert len(await world.keys_now()) == 2


async def test_projects_that_are_gone_keep_nobody_waiting(world: World) -> None:
    await world.store.put_bytes("acme", b"first")
    await world.store.put_bytes("rival", b"other")
    former = await world.keys_now()
    await world.encryption.ShredProject(pb.ShredProjectRequest(project="projects/rival", confirmation="projects/rival"))
    artifacts.ArtifactStore(world.url).put_bytes("nobody", b"plain, and of no project")
    await world.encryption.RotateProjectKeys(pb.RotateProjectKeysRequest(project=ACME))
    await world.rewrapper.round()
    newest = next(iter(await world.keys_now()))
    assert newest not in former
    assert await world.opened({newest: (await world.keys_now())[newest]}, artifacts.digest_of(b"first")) == b"first"
