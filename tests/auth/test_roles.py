"""The table of roles agrees with the permissions that the protos ask for."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pool

import lepton
from chassis.method import rule_of
from services.auth.roles import ADMIN, DEVELOPER, OPERATOR, ROLES, VIEWER

PACKAGES = ("auth", "scheduler", "trainer", "inference", "internal")


def permissions() -> Iterator[str]:
    """Every permission in every service of every proto."""
    for package in PACKAGES:
        folder = importlib.import_module(f"lepton.{package}.v1")
        for module in pkgutil.iter_modules(folder.__path__, f"lepton.{package}.v1."):
            if module.name.endswith("_pb2"):
                importlib.import_module(module.name)
                path = f"{module.name.removesuffix('_pb2').replace('.', '/')}.proto"
                for service in descriptor_pool.Default().FindFileByName(path).services_by_name.values():
                    for method in service.methods:
                        rule = rule_of(method)
                        assert rule is not None, f"{method.full_name} has no rule"
                        if rule.permission:
                            yield rule.permission


KNOWN = frozenset(permissions())


def granted(role: frozenset[str], permission: str) -> bool:
    return any(pattern in ("*", permission, permission.partition(".")[0] + ".*") for pattern in role)


def test_the_protos_ask_for_permissions() -> None:
    assert lepton.__name__ == "lepton"
    assert {"jobs.create", "projects.get", "joinTokens.create"} <= KNOWN


@pytest.mark.parametrize("permission", sorted(KNOWN))
def test_an_administrator_holds_every_permission(permission: str) -> None:
    assert granted(ROLES["roles/admin"], permission)


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"roles/admin"}))
def test_a_role_names_only_permissions_that_exist(role: str) -> None:
    assert ROLES[role] <= KNOWN


def test_the_roles_are_the_four() -> None:
    assert set(ROLES) == {"roles/viewer", "roles/developer", "roles/operator", "roles/admin"}
    assert {"*"} == ADMIN
    assert VIEWER < DEVELOPER


def test_viewers_change_nothing() -> None:
    assert {permission.partition(".")[2] for permission in VIEWER} <= {"get", "list", "watch", "logs"}


def test_only_administrators_touch_principals_and_bindings() -> None:
    sensitive = (
        "users", "roles", "roleBindings", "serviceAccounts", "apiKeys", "sessions", "signingKeys", "principalLimits",
    )  # fmt: skip
    for role in (VIEWER, DEVELOPER, OPERATOR):
        assert not [permission for permission in role if permission.partition(".")[0] in sensitive]


def test_no_permission_is_left_to_administrators_by_oversight() -> None:
    """A new permission must be given to a role, or put on this list on purpose."""
    only_administrators = {
        "apiKeys.create", "apiKeys.delete", "apiKeys.list",
        "authorities.rotate",
        "complianceExemptions.create", "complianceExemptions.delete",
        "compliancePolicies.create", "compliancePolicies.delete", "compliancePolicies.update",
        "dataLabels.update",
        "principalLimits.create", "principalLimits.delete", "principalLimits.get", "principalLimits.list",
        "principalLimits.update",
        "projects.create", "projects.delete", "projects.shred",
        "roleBindings.create", "roleBindings.delete", "roleBindings.list",
        "roles.create", "roles.delete", "roles.update",
        "serviceAccounts.create", "serviceAccounts.get", "serviceAccounts.list",
        "sessions.revoke", "signingKeys.list", "signingKeys.rotate",
        "userIdentities.create", "userIdentities.delete", "userIdentities.list",
        "users.create", "users.get", "users.list", "users.update",
        "workloadTrusts.create", "workloadTrusts.delete", "workloadTrusts.list",
    }  # fmt: skip
    assert only_administrators == KNOWN - (VIEWER | DEVELOPER | OPERATOR)
