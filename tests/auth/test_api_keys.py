"""API keys: found by what they begin with, good for less than their account, made once for a request."""

from uuid import uuid4

import pytest

from lepton.auth.v1 import access_service_pb2 as access
from lepton.auth.v1 import directory_service_pb2 as pb
from lepton.auth.v1 import session_service_pb2 as sessions
from lepton.auth.v1.principal_pb2 import ApiKey
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied
from services.auth import layout
from tests.auth.test_access_control import bind, held
from tests.auth.test_directory import project
from tests.auth.test_ending_access import claims
from tests.harness.auth import RunningAuth, Stubs

pytestmark = pytest.mark.integration


async def robot(auth: RunningAuth, role: str = "roles/admin") -> str:
    """A service account of acme that holds a role in acme and in other."""
    admin = await auth.admin()
    for project_id in ("acme", "other"):
        await project(auth, project_id)
    account = await admin.directory.CreateServiceAccount(
        pb.CreateServiceAccountRequest(parent="projects/acme", service_account_id="robot")
    )
    for parent in ("projects/acme", "projects/other"):
        await bind(auth, "robot", RoleBinding(role=role, members=[account.name]), parent)
    return str(account.name)


async def key(auth: RunningAuth, account: str, key_id: str = "k", request_id: str = "", **limits: object) -> ApiKey:
    request = pb.CreateApiKeyRequest(
        parent=account,
        api_key_id=key_id,
        request_id=request_id,
        api_key=ApiKey(**limits),  # type: ignore[arg-type]
    )
    made: ApiKey = await (await auth.admin()).directory.CreateApiKey(request)
    return made


async def signed_in(auth: RunningAuth, made: ApiKey) -> tuple[Stubs, str]:
    session = await (await auth.client()).sessions.SignIn(sessions.SignInRequest(api_key=made.secret))
    return await auth.client(session.access_token), session.access_token


async def test_a_key_is_good_for_its_permissions_only(auth: RunningAuth) -> None:
    account = await robot(auth)
    stubs, token = await signed_in(auth, await key(auth, account, permissions=["jobs.*", "models.get"]))
    asked = ["jobs.create", "models.get", "models.create", "apiKeys.create"]
    assert await held(stubs, "projects/acme", *asked) == ["jobs.create", "models.get"]
    assert (claims(token)["permissions"], claims(token)["projects"]) == (["jobs.*", "models.get"], [])
    whole, _ = await signed_in(auth, await key(auth, account, "whole"))  # the other key of the account is not confined
    assert await held(whole, "projects/acme", *asked) == asked
    told = await stubs.access.ExplainPermission(
        access.ExplainPermissionRequest(permission="models.create", resource="projects/acme")
    )
    assert (told.allowed, told.limited_by) == (False, "the token is good only for jobs.*, models.get")


async def test_a_key_is_good_in_its_project_only(auth: RunningAuth) -> None:
    account = await robot(auth)
    stubs, token = await signed_in(auth, await key(auth, account, resource="projects/acme"))
    assert await held(stubs, "projects/acme/jobs/digits", "jobs.create") == ["jobs.create"]
    assert await held(stubs, "projects/other", "jobs.create") == []
    with pytest.raises(NotFound):
        await stubs.directory.GetProject(pb.GetProjectRequest(name="projects/other"))
    listed = await stubs.directory.ListProjects(pb.ListProjectsRequest())
    assert [each.name for each in listed.projects] == ["projects/acme"]
    assert claims(token)["projects"] == ["acme"]
    narrow, token = await signed_in(auth, await key(auth, account, "narrow", resource="projects/acme/jobs/digits"))
    assert await held(narrow, "projects/acme/jobs/digits", "jobs.get") == ["jobs.get"]
    assert await held(narrow, "projects/acme/jobs/other", "jobs.get") == []
    assert claims(token)["projects"] == []


async def test_a_limit_gives_nothing_that_the_account_has_not(memory_auth: RunningAuth) -> None:
    account = await robot(memory_auth, "roles/viewer")
    stubs, _ = await signed_in(memory_auth, await key(memory_auth, account, permissions=["*"]))
    assert await held(stubs, "projects/acme", "jobs.get", "jobs.create") == ["jobs.get"]


async def test_a_limited_key_makes_no_key_that_is_good_for_more(memory_auth: RunningAuth) -> None:
    account = await robot(memory_auth)
    stubs, _ = await signed_in(memory_auth, await key(memory_auth, account, permissions=["apiKeys.*"]))
    with pytest.raises(PermissionDenied) as caught:
        await stubs.directory.CreateApiKey(pb.CreateApiKeyRequest(parent=account, api_key_id="wider"))
    assert caught.value.reason == "LIMITED_TOKEN"


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"permissions": ["jobs.fly"]}, "api_key.permissions"),
        ({"resource": "projects/other"}, "api_key.resource"),
        ({"resource": "projects/acme/jobs"}, "api_key.resource"),
        ({"resource": "pools/general"}, "api_key.resource"),
    ],
)
async def test_a_limit_is_checked_when_it_is_set(
    memory_auth: RunningAuth, limits: dict[str, object], field: str
) -> None:
    account = await robot(memory_auth)
    with pytest.raises(InvalidArgument) as caught:
        await key(memory_auth, account, **limits)
    assert field in str(caught.value.fields)


async def test_a_repeated_request_gets_the_same_secret_which_is_stored_nowhere(auth: RunningAuth) -> None:
    account, request_id = await robot(auth), str(uuid4())
    first = await key(auth, account, request_id=request_id)
    again = await key(auth, account, request_id=request_id)
    assert first == again
    assert len(first.secret.rpartition("_")[2]) == 43 or len(first.secret) >= 80
    await signed_in(auth, again)
    with pytest.raises(AlreadyExists):
        await key(auth, account)
    other = await key(auth, account, "other", request_id=str(uuid4()))
    assert other.secret != first.secret
    kept = (await auth.kv.list(layout.ROOT)).entries
    assert not [each.key for each in kept if first.secret[41:].encode() in each.value]


async def test_a_leaked_key_is_found_by_its_beginning(auth: RunningAuth) -> None:
    account, admin = await robot(auth), await auth.admin()
    made = [await key(auth, account, name) for name in ("one", "two")]

    async def found(parent: str, prefix: str = "") -> list[str]:
        answer = await admin.directory.ListApiKeys(pb.ListApiKeysRequest(parent=parent, prefix=prefix))
        assert not any(each.secret for each in answer.api_keys)
        return [each.name for each in answer.api_keys]

    names = [each.name for each in made]
    assert await found(account) == await found("projects/acme") == await found("") == names
    assert await found("projects/other") == []
    assert await found("", made[1].secret[:20]) == [names[1]]
    assert await found("", made[0].prefix) == [names[0]]
    with pytest.raises(InvalidArgument):  # a whole secret does not belong into a request that may be logged
        await found("", made[0].secret)
    await admin.directory.DeleteApiKey(pb.DeleteApiKeyRequest(name=names[0]))
    assert await found("") == names[1:]
