"""Projects, users and service accounts: created once, seen by whoever may, invisible to everybody else."""

import asyncio
import uuid
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.auth.v1 import access_service_pb2 as access
from lepton.auth.v1 import directory_service_pb2 as pb
from lepton.auth.v1 import session_service_pb2 as sessions
from lepton.auth.v1.principal_pb2 import ApiKey, User
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.errors import Aborted, AlreadyExists, InvalidArgument, NotFound, PermissionDenied
from tests.harness.auth import RunningAuth, Stubs

PASSWORD = "correct horse battery"


async def user(auth: RunningAuth, user_id: str, role: str = "", project: str = "") -> Stubs:
    """A new user, signed in, with a role in a project."""
    admin = await auth.admin()
    await admin.directory.CreateUser(pb.CreateUserRequest(user_id=user_id, password=PASSWORD))
    if role:
        binding = RoleBinding(role=role, members=[f"users/{user_id}"])
        await admin.access.CreateRoleBinding(
            access.CreateRoleBindingRequest(
                parent=f"projects/{project}" if project else "", role_binding_id=f"b-{user_id}", role_binding=binding
            )
        )
    return await auth.client((await auth.sign_in(f"users/{user_id}", PASSWORD)).access_token)


async def project(auth: RunningAuth, project_id: str, **fields: Any) -> Any:
    return await (await auth.admin()).directory.CreateProject(pb.CreateProjectRequest(project_id=project_id, **fields))


async def test_a_project_is_created_once_and_read_back(auth: RunningAuth) -> None:
    made = await project(auth, "acme", project={"display_name": "Acme", "labels": {"tier": "gold"}})
    assert made.name == "projects/acme"
    assert uuid.UUID(made.uid)
    read = await (await auth.admin()).directory.GetProject(pb.GetProjectRequest(name="projects/acme"))
    assert read == made
    with pytest.raises(AlreadyExists) as caught:
        await project(auth, "acme")
    assert caught.value.reason == "PROJECT_ALREADY_EXISTS"


async def test_a_repeated_create_gets_the_first_answer(auth: RunningAuth) -> None:
    request_id = str(uuid.uuid4())
    first = await project(auth, "acme", request_id=request_id)
    assert await project(auth, "acme", request_id=request_id) == first
    with pytest.raises(AlreadyExists) as caught:
        await project(auth, "other", request_id=request_id)
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_concurrent_repeats_of_a_create_all_get_its_answer(auth: RunningAuth) -> None:
    admin = await auth.admin()
    request = pb.CreateUserRequest(user_id="alice", password=PASSWORD, request_id=str(uuid.uuid4()))

    async def create() -> Any:
        return await admin.directory.CreateUser(request)

    answers = await asyncio.gather(*(create() for _ in range(5)))
    assert all(answer == answers[0] for answer in answers)


async def test_who_creates_a_project_administers_it(auth: RunningAuth) -> None:
    await project(auth, "acme")
    listed = await (await auth.admin()).access.ListRoleBindings(access.ListRoleBindingsRequest(parent="projects/acme"))
    assert [(each.role, list(each.members)) for each in listed.role_bindings] == [("roles/admin", ["users/admin"])]


async def test_the_claims_of_a_token_name_the_projects_of_the_user(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    await project(memory_auth, "other")
    alice = await user(memory_auth, "alice", "roles/developer", "acme")
    caller = await alice.sessions.GetCaller(sessions.GetCallerRequest())
    assert [(grant.role, grant.scope) for grant in caller.grants] == [("roles/developer", "projects/acme")]


async def test_projects_are_listed_to_those_who_have_a_role_in_them(auth: RunningAuth) -> None:
    for project_id in ("acme", "beta", "gamma"):
        await project(auth, project_id)
    alice = await user(auth, "alice", "roles/viewer", "beta")
    mine = await alice.directory.ListProjects(pb.ListProjectsRequest())
    assert [each.name for each in mine.projects] == ["projects/beta"]
    everything = await (await auth.admin()).directory.ListProjects(pb.ListProjectsRequest(page_size=2))
    assert [each.name for each in everything.projects] == ["projects/acme", "projects/beta"]
    rest = await (await auth.admin()).directory.ListProjects(
        pb.ListProjectsRequest(page_token=everything.next_page_token)
    )
    assert [each.name for each in rest.projects] == ["projects/gamma"]


async def test_a_foreign_project_is_answered_as_an_absent_one(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    await project(memory_auth, "secret")
    alice = await user(memory_auth, "alice", "roles/admin", "acme")

    async def answer(name: str) -> tuple[str, str]:
        with pytest.raises(NotFound) as caught:
            await alice.directory.GetProject(pb.GetProjectRequest(name=name))
        return caught.value.reason, caught.value.message.replace(name, "NAME")

    assert await answer("projects/secret") == await answer("projects/absent")
    with pytest.raises(NotFound):
        await alice.directory.ListServiceAccounts(pb.ListServiceAccountsRequest(parent="projects/secret"))


async def test_a_viewer_may_not_change_what_it_sees(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    alice = await user(memory_auth, "alice", "roles/viewer", "acme")
    await alice.directory.GetProject(pb.GetProjectRequest(name="projects/acme"))
    with pytest.raises(PermissionDenied):
        await alice.directory.DeleteProject(pb.DeleteProjectRequest(name="projects/acme"))
    with pytest.raises(PermissionDenied):
        await alice.directory.CreateUser(pb.CreateUserRequest(user_id="eve", password=PASSWORD))
    with pytest.raises(PermissionDenied):
        await alice.directory.CreateProject(pb.CreateProjectRequest(project_id="mine"))


async def test_a_deleted_project_is_gone_for_good(auth: RunningAuth) -> None:
    made = await project(auth, "acme")
    admin = await auth.admin()
    account = await admin.directory.CreateServiceAccount(
        pb.CreateServiceAccountRequest(parent=made.name, service_account_id="robot")
    )
    key = await admin.directory.CreateApiKey(pb.CreateApiKeyRequest(parent=account.name, api_key_id="k"))
    with pytest.raises(Aborted) as caught:
        await admin.directory.DeleteProject(pb.DeleteProjectRequest(name=made.name, etag='"1"'))
    assert caught.value.reason == "ETAG_MISMATCH"
    await admin.directory.DeleteProject(pb.DeleteProjectRequest(name=made.name, etag=made.etag))
    with pytest.raises(NotFound):
        await admin.directory.GetProject(pb.GetProjectRequest(name=made.name))
    with pytest.raises(NotFound):
        await admin.directory.GetServiceAccount(pb.GetServiceAccountRequest(name=account.name))
    with pytest.raises(AlreadyExists):
        await project(auth, "acme")
    with pytest.raises(Exception, match="SIGN_IN_FAILED"):
        await (await auth.client()).sessions.SignIn(sessions.SignInRequest(api_key=key.secret))


async def test_users_are_read_and_listed_without_their_passwords(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    made = await admin.directory.CreateUser(
        pb.CreateUserRequest(user_id="alice", user=User(display_name="Alice", uid="mine"), password=PASSWORD)
    )
    assert made.uid != "mine"
    assert await admin.directory.GetUser(pb.GetUserRequest(name="users/alice")) == made
    listed = await admin.directory.ListUsers(pb.ListUsersRequest())
    assert [each.name for each in listed.users] == ["users/admin", "users/alice"]
    stored = (await memory_auth.kv.list("/lepton/")).entries
    assert not [entry for entry in stored if PASSWORD.encode() in entry.value]


async def test_a_service_account_needs_its_project(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    request = pb.CreateServiceAccountRequest(parent="projects/absent", service_account_id="robot")
    with pytest.raises(NotFound):
        await admin.directory.CreateServiceAccount(request)
    with pytest.raises(NotFound):
        await admin.directory.CreateApiKey(
            pb.CreateApiKeyRequest(parent="projects/absent/serviceAccounts/robot", api_key_id="k")
        )


async def test_service_accounts_are_listed_by_project(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    for project_id in ("acme", "acme-two"):
        await project(memory_auth, project_id)
        await admin.directory.CreateServiceAccount(
            pb.CreateServiceAccountRequest(parent=f"projects/{project_id}", service_account_id="robot")
        )
    listed = await admin.directory.ListServiceAccounts(pb.ListServiceAccountsRequest(parent="projects/acme"))
    assert [each.name for each in listed.service_accounts] == ["projects/acme/serviceAccounts/robot"]


async def test_wrong_requests_are_refused_with_the_fields(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    wrong = [
        (admin.directory.CreateProject, pb.CreateProjectRequest(project_id="Not An Id"), "project_id"),
        (admin.directory.CreateUser, pb.CreateUserRequest(user_id="bob", password="short"), "password"),
        (admin.directory.ListUsers, pb.ListUsersRequest(page_size=-1), "page_size"),
        (admin.directory.ListUsers, pb.ListUsersRequest(page_token="made up"), "page_token"),
        (admin.directory.GetUser, pb.GetUserRequest(name="projects/acme"), "name"),
    ]
    for method, request, field in wrong:
        with pytest.raises(InvalidArgument) as caught:
            await method(request)
        assert field in caught.value.fields


async def test_an_api_key_may_not_be_born_expired(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    admin = await memory_auth.admin()
    account = await admin.directory.CreateServiceAccount(
        pb.CreateServiceAccountRequest(parent="projects/acme", service_account_id="robot")
    )
    with pytest.raises(InvalidArgument):
        await admin.directory.CreateApiKey(
            pb.CreateApiKeyRequest(
                parent=account.name, api_key_id="k", api_key=ApiKey(expire_time=Timestamp(seconds=1_000_000_000))
            )
        )
