"""What a service knows of projects' keys: asked for once, and again when it is old; forgotten when it has ended."""

import os
from pathlib import Path

import pytest

from chassis.artifact_keys import FRESH_S, ArtifactKeys
from chassis.artifacts import ArtifactStore
from lepton import artifacts
from lepton.errors import FailedPrecondition, InvalidArgument, LeptonError, Unavailable
from lepton.internal.v1.project_keys_pb2 import ArtifactKey, GetArtifactKeysResponse
from tests.harness.clock import ManualClock


class Auth:
    """What auth answers."""

    def __init__(self) -> None:
        self.keys = {"acme": {"a1": os.urandom(32)}, "rival": {"r1": os.urandom(32)}}
        self.error: LeptonError | None = None
        self.asked = 0

    async def __call__(self, project: str) -> GetArtifactKeysResponse:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return GetArtifactKeysResponse(keys=[ArtifactKey(key_id=k, key=v) for k, v in self.keys[project].items()])


async def test_each_project_is_sealed_with_its_own_keys(tmp_path: Path) -> None:
    auth = Auth()
    store = ArtifactStore(f"file://{tmp_path}#keys=project", ArtifactKeys(auth, ManualClock()))
    mine, other = await store.put_bytes("acme", b"same"), await store.put_bytes("rival", b"same")
    assert mine == other
    assert await store.read("acme", mine) == await store.read("rival", other) == b"same"
    of_acme, of_rival = (tmp_path / each / "sha256" / mine[7:9] / f"{mine[7:]}.sealed" for each in ("acme", "rival"))
    of_rival.write_bytes(of_acme.read_bytes())
    assert await store.read("acme", mine) == b"same"
    with pytest.raises(FailedPrecondition) as caught:
        await store.read("rival", mine)
    assert caught.value.reason == "ARTIFACT_KEY_MISSING"


async def test_what_was_stored_before_is_still_read(tmp_path: Path) -> None:
    digest = artifacts.ArtifactStore(f"file://{tmp_path}").put_bytes("acme", b"plain")
    store = ArtifactStore(f"file://{tmp_path}#keys=project", ArtifactKeys(Auth(), ManualClock()))
    assert await store.read("acme", digest) == b"plain"


async def test_keys_are_asked_for_when_they_are_old_and_kept_while_nobody_answers() -> None:
    auth, clock = Auth(), ManualClock()
    keys = ArtifactKeys(auth, clock)
    with pytest.raises(FailedPrecondition):
        keys.of("acme")
    await keys.learn("acme")
    await keys.learn("acme")
    assert auth.asked == 1
    first = keys.of("acme")
    auth.keys["acme"] = {"a2": os.urandom(32), **auth.keys["acme"]}
    await clock.advance(FRESH_S)
    await keys.learn("acme")
    assert keys.of("acme") is not first
    auth.error = Unavailable("UNREACHABLE")
    await clock.advance(FRESH_S)
    assert list(await keys.learn("acme")) == ["a2", "a1"]
    with pytest.raises(Unavailable):
        await keys.learn("rival")
    auth.error = FailedPrecondition("KEY_PROVIDER_REFUSED", key="arn:of:the:operator", problem="DisabledException")
    await clock.advance(FRESH_S)
    assert list(await keys.learn("acme")) == ["a2", "a1"]
    with pytest.raises(FailedPrecondition) as caught:
        await keys.learn("rival")
    assert caught.value.reason == "ARTIFACT_KEYS_UNKNOWN"
    assert "arn" not in str(caught.value)


async def test_keys_that_were_destroyed_are_forgotten(tmp_path: Path) -> None:
    auth, clock = Auth(), ManualClock()
    keys = ArtifactKeys(auth, clock)
    store = ArtifactStore(f"file://{tmp_path}#keys=project", keys)
    digest = await store.put_bytes("acme", b"value")
    auth.error = FailedPrecondition("PROJECT_SHREDDED", project="projects/acme")
    assert await store.read("acme", digest) == b"value"  # the control: for as long as they are fresh
    await clock.advance(FRESH_S)
    for attempt in (store.read("acme", digest), store.put_bytes("acme", b"more"), store.head("acme", digest, 1)):
        with pytest.raises(FailedPrecondition) as caught:
            await attempt
        assert caught.value.reason == "PROJECT_SHREDDED"
    with pytest.raises(FailedPrecondition):
        keys.of("acme")


@pytest.mark.parametrize("fragment", ["keys=all", "keys=", "key=project", "keys=project&x=1"])
def test_a_url_that_asks_for_other_keys_is_refused(fragment: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        artifacts.ArtifactStore(f"file:///srv/artifacts#{fragment}")
    assert list(caught.value.fields) == ["artifacts"]


def test_a_program_that_is_given_no_keys_is_told_so() -> None:
    with pytest.raises(InvalidArgument, match="name a key file"):
        artifacts.ArtifactStore("file:///srv/artifacts#keys=project")
