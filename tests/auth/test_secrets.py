"""Secrets: made, versioned and ended by people; never read back; in the store only sealed."""

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chassis.kv import list_all
from lepton.auth.v1 import access_service_pb2, audit_service_pb2, directory_service_pb2, secret_service_pb2
from lepton.auth.v1 import secret_service_pb2 as pb
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.auth.v1.secret_pb2 import Secret, SecretVersion
from lepton.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    LeptonError,
    NotFound,
    PermissionDenied,
)
from lepton.names import SecretName
from services.auth import layout
from services.auth.roles import DEVELOPER, OPERATOR, VIEWER
from services.auth.secret_versions import MOST
from tests.harness.auth import RunningAuth, Stubs

VALUE = b"canary-of-a-secret-value-5f1c"
ACME, DB = "projects/acme", "projects/acme/secrets/db"


@pytest_asyncio.fixture
async def admin(auth: RunningAuth) -> AsyncIterator[Stubs]:
    """The administrator, with the projects acme and other."""
    stubs = await auth.admin()
    for project in ("acme", "other"):
        await stubs.directory.CreateProject(directory_service_pb2.CreateProjectRequest(project_id=project))
    yield stubs


async def create(stubs: Stubs, secret_id: str = "db", value: bytes = VALUE, **fields: str) -> Secret:
    request = pb.CreateSecretRequest(parent=ACME, secret_id=secret_id, value=value, **fields)
    made: Secret = await stubs.secrets.CreateSecret(request)
    return made


async def add(stubs: Stubs, value: bytes = VALUE, name: str = DB) -> Secret:
    made: Secret = await stubs.secrets.AddSecretVersion(pb.AddSecretVersionRequest(name=name, value=value))
    return made


async def user(auth: RunningAuth, admin: Stubs, user_id: str, role: str, project: str = ACME) -> Stubs:
    """Somebody with a role in a project, signed in."""
    password = "correct horse battery"
    await admin.directory.CreateUser(directory_service_pb2.CreateUserRequest(user_id=user_id, password=password))
    await admin.access.CreateRoleBinding(
        access_service_pb2.CreateRoleBindingRequest(
            parent=project,
            role_binding_id=f"{user_id}-1",
            role_binding=RoleBinding(role=f"roles/{role}", members=[f"users/{user_id}"]),
        )
    )
    return await auth.client((await auth.sign_in(f"users/{user_id}", password)).access_token)


def states(secret: Secret) -> list[tuple[int, str]]:
    return [(each.version, SecretVersion.State.Name(each.state)) for each in secret.versions]


async def test_a_secret_has_versions_and_is_described_without_its_values(admin: Stubs) -> None:
    made = await create(admin)
    assert (made.name, made.current_version, states(made)) == (DB, 1, [(1, "ENABLED")])
    added = await add(admin)
    assert (added.current_version, states(added)) == (2, [(1, "ENABLED"), (2, "ENABLED")])
    got = await admin.secrets.GetSecret(pb.GetSecretRequest(name=DB))
    assert states(got) == states(added)
    assert got.etag == added.etag
    assert not got.HasField("last_use_time")
    await create(admin, "another")
    listed = await admin.secrets.ListSecrets(pb.ListSecretsRequest(parent=ACME))
    assert [each.name for each in listed.secrets] == [f"{ACME}/secrets/another", DB]
    assert not (await admin.secrets.ListSecrets(pb.ListSecretsRequest(parent="projects/other"))).secrets
    for answer in (made, added, got, listed):
        assert VALUE not in answer.SerializeToString()


def test_no_method_for_people_answers_with_a_value() -> None:
    """By the proto: a value is bytes, and no answer of the service, or anything in it, has a field of bytes."""
    service = secret_service_pb2.DESCRIPTOR.services_by_name["SecretService"]
    seen, waiting = set(), [method.output_type for method in service.methods]
    while waiting:
        message = waiting.pop()
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            assert field.type != field.TYPE_BYTES, field.full_name
            if field.message_type is not None:
                waiting.append(field.message_type)
    assert "lepton.auth.v1.Secret" in seen
    given = [
        field for method in service.methods for field in method.input_type.fields if field.type == field.TYPE_BYTES
    ]
    assert [each.full_name for each in given] == [  # the control: where values are taken they are bytes
        "lepton.auth.v1.CreateSecretRequest.value",
        "lepton.auth.v1.AddSecretVersionRequest.value",
    ]
    assert all(each.GetOptions().debug_redact for each in given)


async def test_the_store_and_the_audit_log_hold_no_value(auth: RunningAuth, admin: Stubs) -> None:
    described = Secret(display_name="a canary that may be seen")
    request = pb.CreateSecretRequest(parent=ACME, secret_id="db", value=VALUE, secret=described)
    request.request_id = str(uuid.uuid4())
    await admin.secrets.CreateSecret(request)
    await add(admin)
    with pytest.raises(AlreadyExists):
        await create(admin)
    everything = (await list_all(auth.kv, "")).entries
    assert any(each.key == layout.secret_value(SecretName.parse(DB), 2) for each in everything)
    found = [each.key for each in everything if VALUE in each.value or VALUE in each.key.encode()]
    assert found == []
    assert any(described.display_name.encode() in each.value for each in everything)  # the control: it is found
    records = await admin.audit.QueryAudit(audit_service_pb2.QueryAuditRequest(parent="", page_size=1000))
    assert VALUE.decode() not in str(records)
    told = {(each.action.rpartition("/")[2], each.resource) for each in records.audit_records}
    assert {("CreateSecret", DB), ("AddSecretVersion", f"{DB}/versions/2")} <= told


async def test_a_repeated_create_or_new_version_is_done_once(admin: Stubs) -> None:
    request_id = str(uuid.uuid4())
    first, again = await create(admin, request_id=request_id), await create(admin, request_id=request_id)
    assert (first.uid, first.etag) == (again.uid, again.etag)
    with pytest.raises(AlreadyExists) as other:
        await create(admin, value=b"another value", request_id=request_id)
    assert other.value.reason == "IDEMPOTENCY_KEY_REUSED"
    request = pb.AddSecretVersionRequest(name=DB, value=b"x", request_id=str(uuid.uuid4()))
    assert (await admin.secrets.AddSecretVersion(request)).current_version == 2
    assert (await admin.secrets.AddSecretVersion(request)).current_version == 2


async def test_what_is_disabled_or_destroyed_is_given_to_nobody(admin: Stubs) -> None:
    await create(admin)
    await add(admin)

    async def check(version: int = 0) -> int | str:
        try:
            answer = await admin.secrets.CheckSecret(pb.CheckSecretRequest(name=DB, version=version))
        except LeptonError as error:
            return error.reason
        return int(answer.version)

    assert [await check(), await check(1), await check(3)] == [2, 1, "SECRET_VERSION_UNUSABLE"]
    await admin.secrets.DisableSecret(pb.DisableSecretRequest(name=DB, version=2))
    assert [await check(), await check(2)] == [1, "SECRET_VERSION_UNUSABLE"]
    gone = await admin.secrets.DestroySecretVersion(pb.DestroySecretVersionRequest(name=DB, version=1))
    assert states(gone) == [(1, "DESTROYED"), (2, "DISABLED")]
    assert await check() == "SECRET_VERSION_UNUSABLE"
    with pytest.raises(FailedPrecondition):  # for good
        await admin.secrets.EnableSecret(pb.EnableSecretRequest(name=DB, version=1))
    await admin.secrets.EnableSecret(pb.EnableSecretRequest(name=DB, version=2))
    assert await check() == 2
    await admin.secrets.DisableSecret(pb.DisableSecretRequest(name=DB))
    assert [await check(), await check(2)] == ["SECRET_DISABLED", "SECRET_DISABLED"]
    assert (await admin.secrets.EnableSecret(pb.EnableSecretRequest(name=DB))).current_version == 2


async def test_what_is_destroyed_or_deleted_is_gone_from_the_store(auth: RunningAuth, admin: Stubs) -> None:
    await create(admin)
    await add(admin)
    name = SecretName.parse(DB)

    async def stored() -> list[str]:
        return [each.key for each in (await list_all(auth.kv, layout.secret_values(name))).entries]

    assert await stored() == [layout.secret_value(name, 1), layout.secret_value(name, 2)]
    await admin.secrets.DestroySecretVersion(pb.DestroySecretVersionRequest(name=DB, version=1))
    assert await stored() == [layout.secret_value(name, 2)]
    stale = pb.DeleteSecretRequest(name=DB, etag='"1"')
    with pytest.raises(LeptonError, match="has changed"):
        await admin.secrets.DeleteSecret(stale)
    await admin.secrets.DeleteSecret(pb.DeleteSecretRequest(name=DB))
    assert await stored() == []
    with pytest.raises(NotFound):
        await admin.secrets.GetSecret(pb.GetSecretRequest(name=DB))
    await create(admin)  # a new one of the same name has nothing of the former
    assert states(await admin.secrets.GetSecret(pb.GetSecretRequest(name=DB))) == [(1, "ENABLED")]


async def test_a_deleted_project_takes_its_secrets_with_it(auth: RunningAuth, admin: Stubs) -> None:
    await create(admin)
    await admin.directory.DeleteProject(directory_service_pb2.DeleteProjectRequest(name=ACME))
    left = [each.key for each in (await list_all(auth.kv, "/lepton/auth/secret")).entries]
    assert left == []


async def test_a_value_that_was_moved_in_the_store_does_not_open(memory_auth: RunningAuth) -> None:
    from chassis.kv import Put
    from services.auth.audit import HEAD_KEY, AuditTrail
    from services.auth.kek import Kek
    from services.auth.key_providers import key_provider
    from services.auth.project_keys import ProjectKeys
    from services.auth.secrets import Secrets
    from services.auth.store import Store

    auth, admin = memory_auth, await memory_auth.admin()
    await admin.directory.CreateProject(directory_service_pb2.CreateProjectRequest(project_id="acme"))
    kek = Kek.load(auth.config.kek_file)
    trail = AuditTrail(auth.kv, auth.clock, kek.derive(HEAD_KEY))
    keys = ProjectKeys(auth.kv, key_provider(auth.config.project_keys, kek), trail, auth.clock)
    own = Secrets(Store(auth.kv, trail, None, None, auth.clock), keys)  # type: ignore[arg-type]
    await create(admin)
    await create(admin, "mine", b"worth nothing")
    db, mine = SecretName.parse(DB), SecretName.parse(f"{ACME}/secrets/mine")
    assert await own.value(db, 0) == (1, VALUE)  # the control: in its place it opens
    theirs = await auth.kv.get(layout.secret_value(db, 1))
    assert theirs is not None
    await auth.kv.txn([], [Put(layout.secret_value(mine, 1), theirs.value)])
    with pytest.raises(FailedPrecondition) as refused:
        await own.value(mine, 0)
    assert refused.value.reason == "SEALED_DATA_TAMPERED"


async def test_so_many_versions_are_kept_and_destroyed_ones_make_room(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    await admin.directory.CreateProject(directory_service_pb2.CreateProjectRequest(project_id="acme"))
    await create(admin)
    for _ in range(MOST - 1):
        last = await add(admin, b"v")
    assert last.current_version == MOST
    with pytest.raises(FailedPrecondition) as full:
        await add(admin)
    assert full.value.reason == "SECRET_VERSIONS_FULL"
    await admin.secrets.DestroySecretVersion(pb.DestroySecretVersionRequest(name=DB, version=7))
    assert (await add(admin)).current_version == MOST + 1


@pytest.mark.parametrize(
    "request_",
    [
        pb.CreateSecretRequest(parent=ACME, secret_id="x"),
        pb.CreateSecretRequest(parent=ACME, secret_id="x", value=b"x" * 65537),
        pb.CreateSecretRequest(parent=ACME, secret_id="X", value=b"x"),
        pb.CreateSecretRequest(parent="acme", secret_id="x", value=b"x"),
    ],
    ids=["empty", "too large", "bad id", "bad parent"],
)
async def test_a_request_that_is_wrong_is_refused_by_its_fields(
    memory_auth: RunningAuth, request_: pb.CreateSecretRequest
) -> None:
    admin = await memory_auth.admin()
    with pytest.raises((InvalidArgument, PermissionDenied, NotFound)) as refused:
        await admin.secrets.CreateSecret(request_)
    assert "xxxx" not in str(refused.value)


async def test_who_may_what(auth: RunningAuth, admin: Stubs) -> None:
    await create(admin)
    developer = await user(auth, admin, "dora", "developer")
    viewer = await user(auth, admin, "vera", "viewer")
    stranger = await user(auth, admin, "otto", "admin", "projects/other")
    assert (await developer.secrets.CheckSecret(pb.CheckSecretRequest(name=DB))).version == 1
    calls = [
        lambda stubs, name: stubs.secrets.GetSecret(pb.GetSecretRequest(name=name)),
        lambda stubs, name: stubs.secrets.CheckSecret(pb.CheckSecretRequest(name=name)),
        lambda stubs, name: stubs.secrets.AddSecretVersion(pb.AddSecretVersionRequest(name=name, value=b"x")),
        lambda stubs, name: stubs.secrets.DisableSecret(pb.DisableSecretRequest(name=name)),
        lambda stubs, name: stubs.secrets.EnableSecret(pb.EnableSecretRequest(name=name)),
        lambda stubs, name: stubs.secrets.DestroySecretVersion(pb.DestroySecretVersionRequest(name=name, version=1)),
        lambda stubs, name: stubs.secrets.DeleteSecret(pb.DeleteSecretRequest(name=name)),
        lambda stubs, _: stubs.secrets.ListSecrets(pb.ListSecretsRequest(parent=ACME)),
    ]
    for call in calls:
        with pytest.raises(PermissionDenied):
            await call(viewer, DB)
        with pytest.raises(NotFound) as foreign:
            await call(stranger, DB)
        assert "acme" in str(foreign.value)
    with pytest.raises(NotFound) as foreign:
        await stranger.secrets.GetSecret(pb.GetSecretRequest(name=DB))
    with pytest.raises(NotFound) as absent:
        await admin.secrets.GetSecret(pb.GetSecretRequest(name=DB.replace("db", "no")))
    assert str(foreign.value).replace("db", "no") == str(absent.value)


def test_roles_that_see_do_not_use() -> None:
    assert {each for each in VIEWER | OPERATOR if each.startswith("secrets.")} == set()
    assert {each for each in DEVELOPER if each.startswith("secrets.")} == {
        f"secrets.{verb}" for verb in ("create", "delete", "get", "list", "update", "use")
    }
