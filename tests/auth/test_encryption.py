"""The keys of projects over the wire: who gets them, who does not, and what people may do to them."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from chassis.kv import list_all
from lepton.auth.v1 import encryption_service_pb2 as pb
from lepton.auth.v1.audit_service_pb2 import QueryAuditRequest
from lepton.auth.v1.directory_service_pb2 import (
    CreateProjectRequest,
    CreateUserRequest,
    DeleteProjectRequest,
    GetProjectRequest,
)
from lepton.errors import FailedPrecondition, InvalidArgument, LeptonError, NotFound, PermissionDenied
from lepton.internal.v1.project_keys_pb2 import GetArtifactKeysRequest, GetNodeArtifactKeysRequest
from services.auth import layout
from services.auth.config import Lifetimes
from services.auth.key_providers import ProjectKeySettings
from services.auth.keyring import add_key, create_keyring, names
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until

ACME = "projects/acme"


async def encryption(auth: RunningAuth) -> Any:
    """EncryptionService as the administrator calls it; there is a project."""
    admin = await auth.admin()
    await admin.directory.CreateProject(CreateProjectRequest(project_id="acme"))
    return admin.encryption


async def peer(auth: RunningAuth, path: str) -> Any:
    """ProjectKeyService as a member of the mesh calls it."""
    return (await auth.peer(await auth.join(path))).project_keys


async def test_services_get_the_keys_and_nobody_else_does(memory_auth: RunningAuth) -> None:
    await encryption(memory_auth)
    request = GetArtifactKeysRequest(project=ACME)
    trainer, inference = await peer(memory_auth, "service/trainer"), await peer(memory_auth, "service/inference")
    answer = await trainer.GetArtifactKeys(request)
    assert len(answer.keys[0].key) == 32
    assert await inference.GetArtifactKeys(request) == answer
    admin, anyone = (await memory_auth.admin()).project_keys, (await memory_auth.client()).project_keys
    for stub in (await peer(memory_auth, "agent/node-1"), await peer(memory_auth, "service/gateway"), admin, anyone):
        with pytest.raises(LeptonError) as caught:
            await stub.GetArtifactKeys(request)
        assert caught.value.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
    with pytest.raises(NotFound):
        await trainer.GetArtifactKeys(GetArtifactKeysRequest(project="projects/none"))


async def test_a_node_gets_nothing_while_nobody_vouches_for_it(memory_auth: RunningAuth) -> None:
    await encryption(memory_auth)
    with pytest.raises(FailedPrecondition) as caught:
        await (await peer(memory_auth, "agent/node-1")).GetNodeArtifactKeys(GetNodeArtifactKeysRequest(project=ACME))
    assert caught.value.reason == "ARTIFACT_KEYS_UNAVAILABLE"


async def test_people_see_rotate_and_destroy_keys_and_never_a_key(memory_auth: RunningAuth) -> None:
    stub, trainer = await encryption(memory_auth), await peer(memory_auth, "service/trainer")
    get = pb.GetProjectEncryptionRequest(project=ACME)
    assert not (await stub.GetProjectEncryption(get)).keys
    (first,) = (await trainer.GetArtifactKeys(GetArtifactKeysRequest(project=ACME))).keys
    seen = await stub.RotateProjectKeys(pb.RotateProjectKeysRequest(project=ACME))
    newest, former = (await trainer.GetArtifactKeys(GetArtifactKeysRequest(project=ACME))).keys
    assert former == first
    artifacts = [key for key in seen.keys if key.purpose == key.ARTIFACTS]
    assert [(key.key_id, key.version, key.is_current) for key in artifacts] == [
        (newest.key_id, 2, True),
        (first.key_id, 1, True),
    ]
    assert not [key for key in (newest, former) if key.key in seen.SerializeToString()]
    for confirmation in ("acme", "projects/other", "yes"):
        with pytest.raises(InvalidArgument) as caught:
            await stub.ShredProject(pb.ShredProjectRequest(project=ACME, confirmation=confirmation))
        assert list(caught.value.fields) == ["confirmation"]
    assert len((await stub.GetProjectEncryption(get)).keys) == len(seen.keys)
    done = await stub.ShredProject(pb.ShredProjectRequest(project=ACME, confirmation=ACME))
    assert not done.keys
    assert done.HasField("shred_time")
    assert {newest.key_id, first.key_id} <= set(done.destroyed_key_ids)
    with pytest.raises(FailedPrecondition) as shredded:
        await trainer.GetArtifactKeys(GetArtifactKeysRequest(project=ACME))
    assert shredded.value.reason == "PROJECT_SHREDDED"
    records = (await (await memory_auth.admin()).audit.QueryAudit(QueryAuditRequest(page_size=500))).audit_records
    (proof,) = [each for each in records if each.action.endswith("ShredProject") and "destroyed" in each.reason]
    assert all(key_id in proof.reason for key_id in done.destroyed_key_ids)
    assert proof.actor == "users/admin"


async def test_deleting_a_project_destroys_its_keys_with_it(memory_auth: RunningAuth) -> None:
    await encryption(memory_auth)
    directory = (await memory_auth.admin()).directory
    trainer = await peer(memory_auth, "service/trainer")
    await trainer.GetArtifactKeys(GetArtifactKeysRequest(project=ACME))
    assert (await list_all(memory_auth.kv, layout.PROJECT_KEYS)).entries
    await directory.DeleteProject(DeleteProjectRequest(name=ACME))
    assert not (await list_all(memory_auth.kv, layout.PROJECT_KEYS)).entries
    with pytest.raises(FailedPrecondition):
        await trainer.GetArtifactKeys(GetArtifactKeysRequest(project=ACME))
    with pytest.raises(NotFound):
        await directory.GetProject(GetProjectRequest(name=ACME))


async def test_who_has_no_role_in_a_project_learns_nothing_of_its_keys(memory_auth: RunningAuth) -> None:
    await encryption(memory_auth)
    directory = (await memory_auth.admin()).directory
    await directory.CreateUser(CreateUserRequest(user_id="mallory", password="long enough for anybody"))
    session = await memory_auth.sign_in("users/mallory", "long enough for anybody")
    stub = (await memory_auth.client(session.access_token)).encryption
    for project in (ACME, "projects/none"):
        for call, request in (
            (stub.GetProjectEncryption, pb.GetProjectEncryptionRequest(project=project)),
            (stub.RotateProjectKeys, pb.RotateProjectKeysRequest(project=project)),
            (stub.ShredProject, pb.ShredProjectRequest(project=project, confirmation=project)),
        ):
            with pytest.raises((NotFound, PermissionDenied)) as caught:
                await call(request)
            assert isinstance(caught.value, NotFound)


async def test_a_running_auth_wraps_all_keys_by_a_key_that_is_added_to_its_keyring(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    create_keyring(keyring)
    settings = ProjectKeySettings(keyring_file=str(keyring), rewrap_every_s=0.02)
    async with MemoryKV() as kv, running_auth(kv, tmp_path, lifetimes=Lifetimes(), project_keys=settings) as auth:
        stub, trainer = await encryption(auth), await peer(auth, "service/trainer")
        before = await trainer.GetArtifactKeys(GetArtifactKeysRequest(project=ACME))
        get = pb.GetProjectEncryptionRequest(project=ACME)
        seen = await stub.GetProjectEncryption(get)
        assert [seen.provider_key] == names(keyring)
        added = add_key(keyring)

        async def is_rewrapped() -> bool:
            now = await stub.GetProjectEncryption(get)
            return now.provider_key == added and all(key.is_current for key in now.keys)

        await until(is_rewrapped)
        assert await trainer.GetArtifactKeys(GetArtifactKeysRequest(project=ACME)) == before
