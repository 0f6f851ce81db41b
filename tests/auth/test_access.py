"""Role bindings and what they permit."""

import pytest

from lepton.auth.v1 import access_service_pb2 as pb
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied
from tests.auth.test_directory import PASSWORD, project, user
from tests.harness.auth import RunningAuth


def binding(role: str, *members: str, parent: str = "", role_binding_id: str = "b") -> pb.CreateRoleBindingRequest:
    return pb.CreateRoleBindingRequest(
        parent=parent, role_binding_id=role_binding_id, role_binding=RoleBinding(role=role, members=members)
    )


async def test_a_caller_learns_which_permissions_it_holds(auth: RunningAuth) -> None:
    await project(auth, "acme")
    alice = await user(auth, "alice", "roles/developer", "acme")
    asked = ["jobs.create", "roleBindings.create", "jobs.get", "no.such"]
    answer = await alice.access.CheckPermissions(
        pb.CheckPermissionsRequest(resource="projects/acme/jobs/digits", permissions=asked)
    )
    assert list(answer.permissions) == ["jobs.create", "jobs.get"]
    assert answer.policy_revision > 0
    for resource in ("projects/other", ""):
        none = await alice.access.CheckPermissions(pb.CheckPermissionsRequest(resource=resource, permissions=asked))
        assert list(none.permissions) == []
    everything = await (await auth.admin()).access.CheckPermissions(
        pb.CheckPermissionsRequest(resource="projects/acme", permissions=asked[:3])
    )
    assert list(everything.permissions) == asked[:3]


async def test_a_role_that_is_taken_back_no_longer_permits(auth: RunningAuth) -> None:
    await project(auth, "acme")
    alice = await user(auth, "alice", "roles/viewer", "acme")
    request = directory.GetProjectRequest(name="projects/acme")
    await alice.directory.GetProject(request)
    admin = await auth.admin()
    await admin.access.DeleteRoleBinding(pb.DeleteRoleBindingRequest(name="projects/acme/roleBindings/b-alice"))
    with pytest.raises(NotFound):
        await alice.directory.GetProject(request)
    with pytest.raises(NotFound):
        await admin.access.DeleteRoleBinding(pb.DeleteRoleBindingRequest(name="projects/acme/roleBindings/b-alice"))


async def test_bindings_name_what_exists(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    await project(memory_auth, "acme")
    for request, reason in (
        (binding("roles/wizard", "users/admin"), "ROLE_NOT_FOUND"),
        (binding("roles/viewer", "users/nobody"), "USER_NOT_FOUND"),
        (binding("roles/viewer", "projects/acme/serviceAccounts/none"), "SERVICE_ACCOUNT_NOT_FOUND"),
        (binding("roles/viewer", "users/admin", parent="projects/absent"), "PROJECT_NOT_FOUND"),
    ):
        with pytest.raises(NotFound) as caught:
            await admin.access.CreateRoleBinding(request)
        assert caught.value.reason == reason
    with pytest.raises(InvalidArgument):
        await admin.access.CreateRoleBinding(binding("roles/viewer", "spiffe://lepton.local/service/auth"))


async def test_bindings_of_the_organisation_and_of_projects_are_apart(auth: RunningAuth) -> None:
    admin = await auth.admin()
    await project(auth, "acme")
    made = await admin.access.CreateRoleBinding(binding("roles/viewer", "users/admin"))
    assert made.name == "roleBindings/b"
    with pytest.raises(AlreadyExists):
        await admin.access.CreateRoleBinding(binding("roles/viewer", "users/admin"))
    inside = await admin.access.CreateRoleBinding(binding("roles/viewer", "users/admin", parent="projects/acme"))
    assert inside.name == "projects/acme/roleBindings/b"
    listed = await admin.access.ListRoleBindings(pb.ListRoleBindingsRequest())
    assert [each.name for each in listed.role_bindings] == ["roleBindings/b", "roleBindings/bootstrap-admin"]
    await admin.access.DeleteRoleBinding(pb.DeleteRoleBindingRequest(name="roleBindings/b"))
    listed = await admin.access.ListRoleBindings(pb.ListRoleBindingsRequest())
    assert [each.name for each in listed.role_bindings] == ["roleBindings/bootstrap-admin"]


async def test_a_projects_administrator_rules_it_and_nothing_else(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    alice = await user(memory_auth, "alice", "roles/admin", "acme")
    admin = await memory_auth.admin()
    await admin.directory.CreateUser(directory.CreateUserRequest(user_id="bob", password=PASSWORD))
    await alice.access.CreateRoleBinding(binding("roles/viewer", "users/bob", parent="projects/acme"))
    with pytest.raises(PermissionDenied):
        await alice.access.CreateRoleBinding(binding("roles/admin", "users/alice"))
    with pytest.raises(PermissionDenied):
        await alice.access.DeleteRoleBinding(pb.DeleteRoleBindingRequest(name="roleBindings/bootstrap-admin"))
