"""Roles of the organisation's own, roles on one resource, and why something is permitted or not."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from chassis.access import PolicyReplica
from chassis.kv import Put
from lepton.auth.v1 import access_service_pb2 as pb
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.auth.v1.role_pb2 import Role
from lepton.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from services.auth import layout, permissions
from services.auth.policy import Policy
from tests.auth.test_directory import PASSWORD, project
from tests.harness.auth import RunningAuth, Stubs
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV


async def alice(auth: RunningAuth, *bindings: RoleBinding, parent: str = "projects/acme") -> Stubs:
    """Signed in, with exactly these roles."""
    admin = await auth.admin()
    await admin.directory.CreateUser(directory.CreateUserRequest(user_id="alice", password=PASSWORD))
    for number, each in enumerate(bindings):
        await bind(auth, f"b{number}", each, parent)
    return await auth.client((await auth.sign_in("users/alice", PASSWORD)).access_token)


async def bind(auth: RunningAuth, binding_id: str, binding: RoleBinding, parent: str = "projects/acme") -> RoleBinding:
    made = RoleBinding(role=binding.role, resource=binding.resource, members=list(binding.members) or ["users/alice"])
    if binding.HasField("condition"):
        made.condition.CopyFrom(binding.condition)
    request = pb.CreateRoleBindingRequest(parent=parent, role_binding_id=binding_id, role_binding=made)
    created: RoleBinding = await (await auth.admin()).access.CreateRoleBinding(request)
    return created


async def role(auth: RunningAuth, role_id: str, *patterns: str, request_id: str = "") -> Role:
    request = pb.CreateRoleRequest(role_id=role_id, role=Role(permissions=patterns), request_id=request_id)
    created: Role = await (await auth.admin()).access.CreateRole(request)
    return created


async def held(stubs: Stubs, resource: str, *asked: str, at_least: int = 0) -> list[str]:
    request = pb.CheckPermissionsRequest(resource=resource, permissions=asked, at_least_revision=at_least)
    return list((await stubs.access.CheckPermissions(request)).permissions)


async def test_a_role_of_ones_own_gives_what_it_says_at_once(auth: RunningAuth) -> None:
    await project(auth, "acme")
    request_id = str(uuid4())
    made = await role(auth, "submitter", "jobs.create", "models.*", request_id=request_id)
    assert (made.name, list(made.permissions), made.built_in) == ("roles/submitter", ["jobs.create", "models.*"], False)
    assert await role(auth, "submitter", "jobs.create", "models.*", request_id=request_id) == made
    stubs = await alice(auth, RoleBinding(role="roles/submitter"))
    asked = ("jobs.create", "jobs.delete", "models.delete")
    assert await held(stubs, "projects/acme", *asked) == ["jobs.create", "models.delete"]
    admin = await auth.admin()
    narrower = pb.UpdateRoleRequest(role=Role(name=made.name, permissions=["jobs.delete"]))
    updated = await admin.access.UpdateRole(narrower)
    assert await held(stubs, "projects/acme", *asked) == ["jobs.delete"]
    assert (await admin.access.GetRole(pb.GetRoleRequest(name=made.name))) == updated
    names = [each.name for each in (await stubs.access.ListRoles(pb.ListRolesRequest())).roles]
    assert names == ["roles/viewer", "roles/developer", "roles/operator", "roles/admin", "roles/submitter"]


async def test_a_role_names_only_permissions_that_there_are(memory_auth: RunningAuth) -> None:
    for wrong in ("jobs.fly", "job.create", "jobs", "jobs.create.all", "**", "JOBS.create", "*.fly", "fly.*", ""):
        with pytest.raises(InvalidArgument) as caught:
            await role(memory_auth, "odd", "jobs.get", wrong)
        assert "role.permissions" in str(caught.value.fields), wrong
    with pytest.raises(InvalidArgument):
        await role(memory_auth, "empty")
    listed = await (await memory_auth.admin()).access.ListPermissions(pb.ListPermissionsRequest())
    assert list(listed.permissions) == sorted(permissions.known())
    assert {"jobs.create", "roles.create", "signingKeys.rotate"} <= set(listed.permissions)


async def test_a_built_in_role_stays_as_it_is(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    with pytest.raises(AlreadyExists):
        await role(memory_auth, "viewer", "*")
    with pytest.raises(InvalidArgument):
        await admin.access.UpdateRole(pb.UpdateRoleRequest(role=Role(name="roles/viewer", permissions=["*"])))
    with pytest.raises(InvalidArgument):
        await admin.access.DeleteRole(pb.DeleteRoleRequest(name="roles/viewer"))


async def test_a_role_that_is_given_is_not_deleted(auth: RunningAuth) -> None:
    await project(auth, "acme")
    admin, made = await auth.admin(), await role(auth, "submitter", "jobs.create")
    await alice(auth, RoleBinding(role=made.name))
    with pytest.raises(FailedPrecondition) as caught:
        await admin.access.DeleteRole(pb.DeleteRoleRequest(name=made.name))
    assert (caught.value.reason, caught.value.metadata["binding"]) == ("ROLE_IN_USE", "projects/acme/roleBindings/b0")
    await admin.access.DeleteRoleBinding(pb.DeleteRoleBindingRequest(name="projects/acme/roleBindings/b0"))
    await admin.access.DeleteRole(pb.DeleteRoleRequest(name=made.name))
    for call, request in (
        (admin.access.DeleteRole, pb.DeleteRoleRequest(name=made.name)),
        (admin.access.GetRole, pb.GetRoleRequest(name=made.name)),
    ):
        with pytest.raises(NotFound):
            await call(request)
    with pytest.raises(NotFound):
        await bind(auth, "b1", RoleBinding(role=made.name))


async def test_only_the_organisations_administrators_make_roles(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    stubs = await alice(memory_auth, RoleBinding(role="roles/admin"))
    with pytest.raises(PermissionDenied):
        await stubs.access.CreateRole(pb.CreateRoleRequest(role_id="mine", role=Role(permissions=["*"])))
    with pytest.raises(PermissionDenied):
        await stubs.access.UpdateRole(pb.UpdateRoleRequest(role=Role(name="roles/mine", permissions=["*"])))


async def test_a_role_on_one_resource_counts_for_it_and_what_lies_in_it(auth: RunningAuth) -> None:
    await project(auth, "acme")
    stubs = await alice(auth, RoleBinding(role="roles/developer", resource="projects/acme/jobs/digits"))
    for resource, expected in (
        ("projects/acme/jobs/digits", ["jobs.delete"]),
        ("projects/acme/jobs/digits/checkpoints/5", ["jobs.delete"]),
        ("projects/acme/jobs/digits2", []),
        ("projects/acme/jobs", []),
        ("projects/acme", []),
        ("", []),
    ):
        assert await held(stubs, resource, "jobs.delete") == expected, resource
    with pytest.raises(NotFound):  # the project itself stays out of sight
        await stubs.directory.GetProject(directory.GetProjectRequest(name="projects/acme"))
    assert not (await stubs.directory.ListProjects(directory.ListProjectsRequest())).projects


@pytest.mark.parametrize(
    ("parent", "resource"),
    [
        ("projects/acme", "projects/other/jobs/digits"),
        ("projects/acme", "projects/acme"),
        ("projects/acme", "projects/acmecorp/jobs/digits"),
        ("projects/acme", "projects/acme/jobs"),
        ("projects/acme", "projects/acme/jobs/../x"),
        ("projects/acme", "*"),
        ("", "projects/acme/jobs/digits"),
        ("", "pools"),
    ],
)
async def test_a_resource_lies_where_its_binding_does(memory_auth: RunningAuth, parent: str, resource: str) -> None:
    await project(memory_auth, "acme")
    binding = RoleBinding(role="roles/viewer", resource=resource, members=["users/admin"])
    with pytest.raises(InvalidArgument) as caught:
        await bind(memory_auth, "b", binding, parent)
    assert "role_binding.resource" in str(caught.value.fields)


async def explained(stubs: Stubs, permission: str, resource: str, **more: Any) -> pb.ExplainPermissionResponse:
    request = pb.ExplainPermissionRequest(permission=permission, resource=resource, **more)
    answer: pb.ExplainPermissionResponse = await stubs.access.ExplainPermission(request)
    return answer


async def test_an_explanation_names_the_binding_or_what_is_missing(auth: RunningAuth) -> None:
    await project(auth, "acme")
    stubs = await alice(auth, RoleBinding(role="roles/viewer"))
    job, admin = "projects/acme/jobs/digits", await auth.admin()
    seen = await explained(stubs, "jobs.get", job)
    assert (seen.allowed, seen.known, seen.hidden, not seen.lacking) == (True, True, False, True)
    (grant,) = seen.grants
    assert (grant.role, grant.scope, grant.pattern) == ("roles/viewer", "projects/acme", "jobs.get")
    assert grant.role_binding == ""  # alice may not list bindings
    told = await explained(admin, "jobs.get", job, principal="users/alice")
    assert [each.role_binding for each in told.grants] == ["projects/acme/roleBindings/b0"]
    missing = await explained(stubs, "jobs.create", job)
    assert not missing.allowed
    assert [each.role for each in missing.lacking] == ["roles/viewer"]
    assert list(missing.scopes) == ["*", "projects/acme", job]
    assert list(missing.granting_roles) == ["roles/admin", "roles/developer"]
    assert not (await explained(stubs, "jobs.fly", job)).known
    assert (await explained(stubs, "jobs.get", "projects/other/jobs/x")).hidden


async def test_only_who_may_list_the_bindings_asks_about_others(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    stubs = await alice(memory_auth, RoleBinding(role="roles/viewer"))
    with pytest.raises(PermissionDenied):
        await explained(stubs, "jobs.get", "projects/acme", principal="users/admin")
    with pytest.raises(NotFound):
        await explained(stubs, "jobs.get", "projects/other", principal="users/admin")
    own = await explained(stubs, "jobs.get", "projects/acme", principal="users/alice")
    assert own.allowed


async def test_a_check_is_never_older_than_what_its_caller_saw_written(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    stubs, admin = await alice(memory_auth), await memory_auth.admin()
    made = await bind(memory_auth, "b", RoleBinding(role="roles/viewer"))
    written = int(made.etag.strip('"'))
    assert await held(stubs, "projects/acme", "jobs.get", at_least=written) == ["jobs.get"]
    call = admin.access.DeleteRoleBinding(pb.DeleteRoleBindingRequest(name=made.name))
    await call
    taken_back = int(dict(await call.trailing_metadata())["x-lepton-policy-revision"])
    assert taken_back > written
    assert await held(stubs, "projects/acme", "jobs.get", at_least=taken_back) == []


async def test_a_revision_that_is_not_there_yet_is_not_decided_without() -> None:
    clock = ManualClock(datetime.now(UTC))
    async with MemoryKV(clock) as kv:
        await kv.txn([], [Put(f"{layout.ROLES}one", Role(permissions=["jobs.get"]).SerializeToString())])
        policy = Policy(kv, PolicyReplica(clock), issuer="i", audience="a", clock=clock)
        await policy.start()
        await policy.at_least(policy.revision)
        waiting = asyncio.create_task(policy.at_least(policy.revision + 1))
        await asyncio.sleep(0)
        await clock.advance(3)
        with pytest.raises(Unavailable, match="POLICY_BEHIND"):
            await waiting
