"""Who may give which secrets to a program, and where: the gate that submissions pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from chassis import secret_mounts
from chassis.call import Principal
from chassis.secret_mounts import ClosedGate, Gate, violations
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from lepton.scheduler.v1.program_pb2 import SecretMount as ProgramMount
from lepton.trainer.v1.job_pb2 import SecretMount as JobMount

DB = "projects/acme/secrets/db"
ALICE = Principal(name="users/alice")
PEER = Principal(name="spiffe://lepton/service/trainer", is_peer=True)


class Policy:
    """Lets nobody but alice use acme's secrets."""

    def require(self, principal: Principal, permission: str, resource: str) -> None:
        assert permission == "secrets.use"
        if principal != ALICE or not resource.startswith("projects/acme/"):
            raise PermissionDenied("PERMISSION_DENIED", permission=permission, resource=resource)


class Auth:
    """Knows one secret."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    async def CheckSecret(self, request: Any) -> None:
        self.asked.append((request.name, request.version))
        if request.name != DB:
            raise NotFound("SECRET_NOT_FOUND", secret=request.name)
        if request.version > 1:
            raise FailedPrecondition("SECRET_VERSION_UNUSABLE", secret=DB, version="2", state="not there")


@contextmanager
def calling(principal: Principal | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    call = SimpleNamespace(principal=principal)
    monkeypatch.setattr(secret_mounts, "current_call", lambda: call)
    yield


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    auth = Auth()
    monkeypatch.setattr(secret_mounts, "SecretServiceStub", lambda channel: channel)
    return Gate(Policy(), auth)


@pytest.mark.parametrize("kind", [ProgramMount, JobMount])
async def test_who_may_use_a_secret_may_name_it(gate: Gate, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with calling(ALICE, monkeypatch):
        await gate.admit([kind(secret=DB, env="A"), kind(secret=DB, version=1, file="b")], "acme", "job.secrets")
    assert gate._auth.asked == [(DB, 0), (DB, 1)]


async def test_who_may_not_is_refused_before_auth_is_asked(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    with calling(Principal(name="users/bob"), monkeypatch), pytest.raises(PermissionDenied):
        await gate.admit([JobMount(secret=DB, env="A")], "acme", "job.secrets")
    assert gate._auth.asked == []


async def test_what_auth_says_is_told_to_the_caller_as_the_callers_mistake(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with calling(ALICE, monkeypatch):
        with pytest.raises(NotFound, match="secrets create"):
            await gate.admit([JobMount(secret=f"{DB}2", env="A")], "acme", "job.secrets")
        with pytest.raises(FailedPrecondition) as unusable:
            await gate.admit([JobMount(secret=DB, version=2, env="A")], "acme", "job.secrets")
        assert unusable.value.domain == ""  # our own now


async def test_services_have_asked_before_they_call(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    with calling(PEER, monkeypatch):
        await gate.admit([ProgramMount(secret=DB, env="A")], "acme", "secrets")
        with pytest.raises(InvalidArgument):
            await gate.admit([ProgramMount(secret="projects/other/secrets/db", env="A")], "acme", "secrets")
    assert gate._auth.asked == []


async def test_without_a_mesh_nothing_that_names_secrets_passes() -> None:
    await ClosedGate().admit([], "acme", "secrets")
    with pytest.raises(FailedPrecondition):
        await ClosedGate().admit([JobMount(secret=DB, env="A")], "acme", "secrets")


@pytest.mark.parametrize(
    ("mounts", "field"),
    [
        ([JobMount(secret="projects/other/secrets/db", env="A")], "s[0].secret"),
        ([JobMount(secret=DB, env="LD_PRELOAD")], "s[0].env"),
        ([JobMount(secret=DB, env="PYTHONPATH")], "s[0].env"),
        ([JobMount(secret=DB, env="LEPTON_SECRETS")], "s[0].env"),
        ([JobMount(secret=DB, env="TAKEN")], "s[0].env"),
        ([JobMount(secret=DB, env="A"), JobMount(secret=DB, version=1, env="A")], "s"),
        ([JobMount(secret=DB, file="a"), JobMount(secret=DB, file="a")], "s"),
        ([JobMount(secret=DB, file="a"), JobMount(secret=DB, file="a/b")], "s"),
    ],
)
def test_places_that_cannot_be_are_named(mounts: list[JobMount], field: str) -> None:
    assert field in dict(violations(mounts, "acme", "s", {"TAKEN"}))


def test_places_that_can_be_are_not() -> None:
    mounts = [JobMount(secret=DB, env="A"), JobMount(secret=DB, file="a"), JobMount(secret=DB, file="ab/c")]
    assert dict(violations(mounts, "acme", "s", {"TAKEN"})) == {}


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        dict(violations([JobMount(secret="db", env="A")], "acme", "s"))
