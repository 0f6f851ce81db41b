"""Grants on conditions, asked and explained; and what a write of the policy would change, before it is made."""

from datetime import UTC, datetime
from typing import Any

import pytest

from lepton.auth.v1 import access_service_pb2 as pb
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.auth.v1.role_pb2 import Role
from lepton.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from lepton.policy.v1.condition_pb2 import Condition, TimeWindow
from services.auth.access_preview import rule_of_write
from tests.auth.test_access_control import alice, bind, role
from tests.auth.test_directory import project
from tests.harness.auth import RunningAuth, Stubs

pytestmark = pytest.mark.exhaustive

ACME = "projects/acme"
WORKING_HOURS = TimeWindow(days=[1, 2, 3, 4, 5], start="08:00", end="18:00", time_zone="Europe/Berlin")
WORKING = Condition(pools=["pools/a"], max_priority=5, windows=[WORKING_HOURS])
MONDAY, SUNDAY = datetime(2026, 6, 8, 7, 0, tzinfo=UTC), datetime(2026, 6, 7, 7, 0, tzinfo=UTC)


def asked(*pools: str, priority: int = 0, at: datetime = MONDAY) -> pb.RequestAttributes:
    attributes = pb.RequestAttributes(pools=pools, priority=priority)
    attributes.time.FromDatetime(at)
    return attributes


async def developer(auth: RunningAuth, condition: Condition = WORKING) -> Stubs:
    await project(auth, "acme")
    return await alice(auth, RoleBinding(role="roles/developer", condition=condition))


async def may(stubs: Stubs, attributes: pb.RequestAttributes, *permissions: str) -> list[str]:
    request = pb.CheckPermissionsRequest(
        resource=ACME, permissions=permissions or ["jobs.create"], attributes=attributes
    )
    return list((await stubs.access.CheckPermissions(request)).permissions)


@pytest.mark.parametrize(
    ("attributes", "is_held"),
    [
        (asked("pools/a"), True),
        (asked("pools/a", priority=5), True),
        (asked("pools/a", priority=6), False),
        (asked("pools/b"), False),
        (asked("pools/a", "pools/b"), False),
        (asked(), False),
        (asked("pools/a", at=SUNDAY), False),
        (asked("pools/a", at=datetime(2026, 6, 8, 5, 59, tzinfo=UTC)), False),  # 07:59 in Berlin
        (asked("pools/a", at=datetime(2026, 6, 8, 6, 0, tzinfo=UTC)), True),
        (asked("pools/a", at=datetime(2026, 6, 8, 15, 59, 59, tzinfo=UTC)), True),
        (asked("pools/a", at=datetime(2026, 6, 8, 16, 0, tzinfo=UTC)), False),
        (asked("pools/a", at=datetime(2026, 1, 12, 6, 59, tzinfo=UTC)), False),  # in winter an hour later
        (asked("pools/a", at=datetime(2026, 1, 12, 7, 0, tzinfo=UTC)), True),
    ],
    ids=str,
)
async def test_a_grant_on_conditions(memory_auth: RunningAuth, attributes: Any, is_held: bool) -> None:
    stubs = await developer(memory_auth)
    assert await may(stubs, attributes) == (["jobs.create"] if is_held else [])


async def test_pools_and_priority_do_not_concern_what_asks_for_no_machines(memory_auth: RunningAuth) -> None:
    stubs = await developer(memory_auth)
    reads = ("jobs.get", "jobs.cancel", "models.create")
    assert await may(stubs, asked(), *reads) == list(reads)
    assert await may(stubs, asked(at=SUNDAY), *reads) == []


async def test_conditions_are_kept_and_shown(auth: RunningAuth) -> None:
    stubs = await developer(auth)
    listed = await (await auth.admin()).access.ListRoleBindings(pb.ListRoleBindingsRequest(parent=ACME))
    (own,) = (each for each in listed.role_bindings if "users/alice" in each.members)
    assert own.condition == WORKING
    request = pb.ExplainPermissionRequest(permission="jobs.create", resource=ACME, attributes=asked("pools/b"))
    told = await stubs.access.ExplainPermission(request)
    (held,) = told.withheld
    assert not told.allowed
    assert not told.grants
    assert held.condition == "in pools/a; priority at most 5; Mon-Fri 08:00-18:00 Europe/Berlin"
    assert held.unmet == "pools/b is none of pools/a"
    request.attributes.CopyFrom(asked("pools/a", at=SUNDAY))
    (held,) = (await stubs.access.ExplainPermission(request)).withheld
    assert held.unmet == "it is not within Mon-Fri 08:00-18:00 Europe/Berlin"
    request.attributes.CopyFrom(asked("pools/a"))
    told = await stubs.access.ExplainPermission(request)
    assert told.allowed
    assert [each.condition != "" and each.unmet for each in told.grants] == [""]


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        (Condition(windows=[TimeWindow(start="08:00", end="18:00", time_zone="Mars/Olympus")]), "time_zone"),
        (Condition(windows=[TimeWindow(start="08:00", end="18:00", time_zone="../../etc/passwd")]), "time_zone"),
        (Condition(windows=[TimeWindow(start="08:00", end="18:00")]), "time_zone"),
        (Condition(windows=[TimeWindow(start="8", end="18:00", time_zone="UTC")]), "start"),
        (Condition(windows=[TimeWindow(start="08:00", end="24:01", time_zone="UTC")]), "end"),
        (Condition(windows=[TimeWindow(days=[0], start="08:00", end="18:00", time_zone="UTC")]), "days"),
        (Condition(pools=["a"]), "pools"),
        (Condition(max_priority=1001), "max_priority"),
    ],
    ids=str,
)
async def test_a_condition_that_makes_no_sense_is_refused(
    memory_auth: RunningAuth, condition: Condition, field: str
) -> None:
    await project(memory_auth, "acme")
    with pytest.raises(InvalidArgument) as caught:
        await bind(memory_auth, "b", RoleBinding(role="roles/viewer", members=["users/admin"], condition=condition))
    assert field in str(caught.value.fields)


async def preview(stubs: Stubs, **change: Any) -> list[tuple[str, str, str, set[str], set[str]]]:
    answer = await stubs.access.PreviewAccessChange(pb.PreviewAccessChangeRequest(**change))
    assert answer.total == len(answer.effects)
    assert answer.policy_revision > 0
    return [(each.principal, each.scope, each.condition, set(each.gained), set(each.lost)) for each in answer.effects]


def grant(role_: str, condition: Condition | None = None, **more: str) -> pb.CreateRoleBindingRequest:
    binding = RoleBinding(role=role_, members=["users/alice"], condition=condition, resource=more.pop("resource", ""))
    return pb.CreateRoleBindingRequest(parent=ACME, role_binding_id="new", role_binding=binding, **more)


async def test_a_preview_says_who_gains_and_who_loses_and_writes_nothing(auth: RunningAuth) -> None:
    await project(auth, "acme")
    await role(auth, "submitter", "jobs.create", "jobs.get")
    stubs = await alice(auth, RoleBinding(role="roles/submitter"))
    admin = await auth.admin()
    before = await admin.access.ListRoleBindings(pb.ListRoleBindingsRequest(parent=ACME))
    records = (await auth.kv.list("/lepton/auth/policy/")).revision

    ((who, where, condition, gained, lost),) = await preview(admin, create_role_binding=grant("roles/viewer"))
    assert (who, where, condition, lost) == ("users/alice", ACME, "", set())
    assert {"jobs.list", "models.get"} <= gained
    assert not {"jobs.get", "jobs.create", "jobs.delete"} & gained
    ((*_, condition, gained, _),) = await preview(admin, create_role_binding=grant("roles/developer", WORKING))
    assert condition.startswith("in pools/a")
    assert "jobs.delete" in gained
    assert "jobs.create" not in gained  # she holds that always
    delete = pb.DeleteRoleBindingRequest(name=f"{ACME}/roleBindings/b0")
    assert await preview(admin, delete_role_binding=delete) == [
        ("users/alice", ACME, "", set(), {"jobs.create", "jobs.get"})
    ]
    update = pb.UpdateRoleRequest(role=Role(name="roles/submitter", permissions=["jobs.get", "jobs.delete"]))
    assert await preview(admin, update_role=update) == [("users/alice", ACME, "", {"jobs.delete"}, {"jobs.create"})]
    assert await preview(admin, create_role=pb.CreateRoleRequest(role_id="n", role=Role(permissions=["*"]))) == []

    assert await admin.access.ListRoleBindings(pb.ListRoleBindingsRequest(parent=ACME)) == before
    assert (await auth.kv.list("/lepton/auth/policy/")).revision >= records
    assert await may(stubs, asked("pools/a"), "jobs.create", "jobs.delete", "jobs.list") == ["jobs.create"]
    await admin.access.UpdateRole(update)  # and now it is as it was said
    assert await may(stubs, asked("pools/a"), "jobs.create", "jobs.delete", "jobs.get") == ["jobs.delete", "jobs.get"]


async def test_a_preview_fails_as_the_write_would(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    await role(memory_auth, "submitter", "jobs.create")
    stubs, admin = await alice(memory_auth, RoleBinding(role="roles/submitter")), await memory_auth.admin()
    absent, taken = pb.DeleteRoleBindingRequest(name=f"{ACME}/roleBindings/none"), grant("roles/viewer")
    taken.role_binding_id = "b0"
    for error, change in (
        (NotFound, {"create_role_binding": grant("roles/wizard")}),
        (AlreadyExists, {"create_role_binding": taken}),
        (InvalidArgument, {"create_role_binding": grant("roles/viewer", resource="projects/other/jobs/x")}),
        (NotFound, {"delete_role_binding": absent}),
        (AlreadyExists, {"create_role": pb.CreateRoleRequest(role_id="viewer", role=Role(permissions=["*"]))}),
        (InvalidArgument, {"update_role": pb.UpdateRoleRequest(role=Role(name="roles/viewer", permissions=["*"]))}),
        (FailedPrecondition, {"delete_role": pb.DeleteRoleRequest(name="roles/submitter")}),
        (InvalidArgument, {}),
    ):
        with pytest.raises(error):
            await preview(admin, **change)
    for change in (
        {"create_role_binding": grant("roles/viewer")},
        {"delete_role_binding": pb.DeleteRoleBindingRequest(name=f"{ACME}/roleBindings/b0")},
        {"update_role": pb.UpdateRoleRequest(role=Role(name="roles/submitter", permissions=["*"]))},
        {"create_role": pb.CreateRoleRequest(role_id="n", role=Role(permissions=["*"]))},
        {"delete_role": pb.DeleteRoleRequest(name="roles/submitter")},
    ):
        with pytest.raises(PermissionDenied):
            await preview(stubs, **change)
    elsewhere = grant("roles/viewer")
    elsewhere.parent = "projects/other"
    with pytest.raises(NotFound):
        await preview(stubs, create_role_binding=elsewhere)


def test_every_kind_of_preview_needs_what_its_write_needs() -> None:
    kinds = [each.name for each in pb.PreviewAccessChangeRequest.DESCRIPTOR.oneofs_by_name["change"].fields]
    assert {kind: rule_of_write(kind).permission for kind in kinds} == {
        "create_role_binding": "roleBindings.create",
        "delete_role_binding": "roleBindings.delete",
        "create_role": "roles.create",
        "update_role": "roles.update",
        "delete_role": "roles.delete",
    }
