"""The keys of artifacts on a node: of the projects that it runs, for their own users, and no longer than that."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from chassis.artifact_keys import ArtifactKeys
from lepton.artifacts import ArtifactStore, Cipher, KeyFile
from lepton.errors import FailedPrecondition, LeptonError, NotFound, PermissionDenied, Unavailable
from lepton.internal.v1.project_keys_pb2 import ArtifactKey, GetArtifactKeysResponse
from services.agent.artifact_places import FILE, ArtifactPlaces, keys_folder
from services.agent.digest_cache import DigestCache
from services.agent.model_cache import ModelCache
from services.agent.staging import is_of
from tests.harness.clock import ManualClock

DIGEST = "0" * 64


class Auth:
    """What auth answers; an error is raised, and raised again until another answer is set."""

    def __init__(self) -> None:
        self.keys = {"acme": {"k1": os.urandom(32)}, "rival": {"r1": os.urandom(32)}}
        self.error: LeptonError | None = None
        self.asked: list[str] = []

    async def __call__(self, project: str) -> GetArtifactKeysResponse:
        self.asked.append(project)
        if self.error is not None:
            raise self.error
        return GetArtifactKeysResponse(keys=[ArtifactKey(key_id=k, key=v) for k, v in self.keys[project].items()])


class World:
    def __init__(self, folder: Path, owner: Callable[[str], int | None] = lambda _: None) -> None:
        self.auth, self.clock, self.ended = Auth(), ManualClock(), list[str]()
        self.root, self.url = folder / "keys", f"file://{folder}/artifacts"
        keys = ArtifactKeys(self.auth, self.clock)

        async def end(project: str) -> None:
            self.ended.append(project)

        self.places = ArtifactPlaces(f"{self.url}#keys=project", self.root, keys, self.clock, owner, end)
        self.places.clear()

    def file(self, project: str) -> Path:
        return self.root / project / FILE

    def sealed(self, project: str, data: bytes) -> str:
        """An artifact as the trainer stores it."""
        return ArtifactStore(self.url, Cipher(KeyFile.of(self.auth.keys[project]))).put_bytes(project, data)


async def test_a_slice_opens_what_its_project_has_stored_by_its_url_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    mine, other = world.sealed("acme", b"mine"), world.sealed("rival", b"other")
    await world.places.ready("acme")
    url = world.places.url("acme")
    store = ArtifactStore(url)
    assert store.read("acme", mine) == b"mine"
    assert store.read("acme", store.put_bytes("acme", b"made")) == b"made"
    with pytest.raises(FailedPrecondition):
        store.read("rival", other)
    # What a process shows of itself, its arguments and its environment, names the file and holds no key.
    assert not [key for key in world.auth.keys["acme"].values() if key.hex() in url or str(key) in url]
    assert not world.file("rival").exists()
    assert world.auth.asked == ["acme"]


async def test_only_its_owner_can_read_a_key_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.places.ready("acme")
    assert stat.S_IMODE(world.file("acme").stat().st_mode) == 0o400
    assert stat.S_IMODE(world.file("acme").parent.stat().st_mode) == 0o700
    assert world.places.shown("acme") == (world.file("acme").parent,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_a_project_with_a_user_of_its_own_owns_its_keys(tmp_path: Path) -> None:
    world = World(tmp_path, owner={"acme": 4711, "rival": 4712}.__getitem__)
    for project, uid in (("acme", 4711), ("rival", 4712)):
        await world.places.ready(project)
        for each in (world.file(project), world.file(project).parent):
            assert (each.stat().st_uid, each.stat().st_gid) == (uid, uid)


async def test_a_rotation_reaches_ranks_that_run(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.places.ready("acme")
    rank = ArtifactStore(world.places.url("acme"))
    before = rank.put_bytes("acme", b"before")
    world.auth.keys["acme"] = {"k2": os.urandom(32), **world.auth.keys["acme"]}
    await world.places.refresh()
    after = rank.put_bytes("acme", b"after")
    assert rank.read("acme", before) == b"before"
    newest = dict([next(iter(world.auth.keys["acme"].items()))])
    assert ArtifactStore(world.url, Cipher(KeyFile.of(newest))).read("acme", after) == b"after"


async def test_keys_go_when_the_node_runs_nothing_of_the_project_any_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.places.ready("acme")
    world.auth.error = PermissionDenied("PROJECT_NOT_ON_NODE", node="n", project="projects/acme")
    await world.places.refresh()
    assert world.file("acme").exists()  # the scheduler that was asked may have been behind
    await world.places.refresh()
    assert not world.file("acme").parent.exists()
    assert not world.ended
    world.auth.error = None
    await world.places.ready("acme")
    assert world.file("acme").exists()


@pytest.mark.parametrize(
    "error",
    [FailedPrecondition("PROJECT_SHREDDED", project="projects/acme"), NotFound("PROJECT_NOT_FOUND", project="acme")],
)
async def test_keys_and_all_that_is_kept_go_at_once_when_the_project_has_ended(
    tmp_path: Path, error: LeptonError
) -> None:
    world = World(tmp_path)
    await world.places.ready("acme")
    await world.places.ready("rival")
    world.auth.error = error
    await world.places.refresh()
    assert not world.file("acme").parent.exists()
    assert sorted(world.ended) == ["acme", "rival"]
    with pytest.raises(type(error)):
        await world.places.ready("acme")


@pytest.mark.parametrize(
    "error",
    [Unavailable("UNREACHABLE"), FailedPrecondition("KEY_PROVIDER_REFUSED", key="k", problem="DisabledException")],
)
async def test_while_auth_has_no_answer_what_is_known_goes_on(tmp_path: Path, error: LeptonError) -> None:
    world = World(tmp_path)
    await world.places.ready("acme")
    world.auth.error = error
    for _ in range(5):
        await world.places.refresh()
    assert world.file("acme").exists()
    await world.places.ready("acme")
    assert not world.ended
    with pytest.raises((Unavailable, FailedPrecondition)):
        await world.places.ready("rival")


async def test_a_node_that_is_refused_waits_for_a_scheduler_that_is_behind(tmp_path: Path) -> None:
    world = World(tmp_path)
    refused = PermissionDenied("PROJECT_NOT_ON_NODE", node="n", project="projects/acme")
    world.auth.error = refused
    waiting = asyncio.create_task(world.places.ready("acme"))
    await world.clock.advance(2.0)
    assert not waiting.done()
    world.auth.error = None
    await world.clock.advance(2.0)
    await waiting
    assert world.file("acme").exists()
    world.auth.error = refused
    waiting = asyncio.create_task(world.places.ready("rival"))
    await world.clock.advance(15.0)
    with pytest.raises(PermissionDenied):
        await waiting


async def test_what_a_node_keeps_of_a_project_goes_and_nothing_else(tmp_path: Path) -> None:
    async def make(folder: Path) -> dict[str, str]:
        (folder / "code.py").write_text("x")
        return {}

    cache = DigestCache(tmp_path / "code", most_bytes=1 << 20, clock=ManualClock())
    cache.clear_up()
    for project in ("acme", "acme-two"):
        async with cache.hold(f"{project}-{DIGEST}", make):
            pass
    models = ModelCache.made(tmp_path / "models", most_bytes=1 << 20)
    assert models is not None
    for project in ("acme", "acme-two"):
        (tmp_path / "models" / f"{project}-{DIGEST}").write_bytes(b"x")
    async with cache.hold(f"acme-{DIGEST}", make):
        await cache.drop(lambda key: is_of(key, "acme"))
        assert (tmp_path / "code" / f"acme-{DIGEST}").exists()  # it is in use
    await cache.drop(lambda key: is_of(key, "acme"))
    models.forget("acme")
    assert [each.name for each in (tmp_path / "code").iterdir() if each.is_dir()] == [f"acme-two-{DIGEST}"]
    assert [each.name for each in (tmp_path / "models").iterdir()] == [f"acme-two-{DIGEST}"]


def test_keys_lie_where_other_slices_can_be_kept_from_them() -> None:
    state = Path("/var/lib/lepton/agent")
    assert keys_folder(None, state) == state / "keys"
    assert keys_folder(Path("/dev/shm/lepton-1"), state) == state / "keys"
    assert keys_folder(Path("/run/lepton/lepton-1"), state) == Path("/run/lepton/lepton-1-keys")
