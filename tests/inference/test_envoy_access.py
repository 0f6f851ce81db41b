"""What the gateway takes of the policy, and how it is written down for Envoy."""

import pytest

from chassis.access import Binding, PolicySnapshot
from services.inference.envoy.access import CallRules, call_rules
from services.inference.envoy.policy import policy_source

ROLES = {
    "roles/viewer": frozenset({"deployments.get"}),
    "roles/trainer": frozenset({"jobs.*"}),
    "roles/reader": frozenset({"*.get"}),
    "roles/admin": frozenset({"*"}),
}


def snapshot(*bindings: tuple[str, str, str]) -> PolicySnapshot:
    return PolicySnapshot(
        revision=1,
        roles=ROLES,
        bindings=tuple(Binding(principal=who, role=f"roles/{role}", scope=scope) for who, role, scope in bindings),
        issuer="lepton",
        audience="lepton",
        revoked_tokens=frozenset({"t"}),
        revoked_sessions=frozenset({"s"}),
        revoked_principals={"users/ada": 7.0},
    )


@pytest.mark.parametrize(
    ("role", "scope", "granted"),
    [
        ("admin", "*", "*"),
        ("viewer", "projects/acme", "acme"),
        ("reader", "projects/acme", "acme"),
        ("viewer", "projects/acme/deployments/digits", "acme.digits"),
        ("viewer", "projects/acme/models/cnn", "projects/acme/models/cnn"),
        ("trainer", "projects/acme", None),
        ("viewer", "projects/acme/jobs/train", None),
        ("viewer", "projects/acme/models/cnn/versions/1", None),
        ("viewer", "queues/default", None),
        ("unknown", "*", None),
    ],
)
def test_a_binding_counts_where_its_role_lets_predict(role: str, scope: str, granted: str | None) -> None:
    rules = call_rules(snapshot(("users/ada", role, scope)), 0)
    assert rules.grants == ({"users/ada": {granted}} if granted else {})


def test_bindings_of_one_principal_add_up_and_revocations_are_taken_over() -> None:
    rules = call_rules(
        snapshot(("users/ada", "viewer", "projects/acme"), ("users/ada", "viewer", "projects/beta/deployments/x")),
        0,
    )
    assert rules.grants == {"users/ada": {"acme", "beta.x"}}
    assert (rules.revoked_tokens, rules.revoked_sessions) == ({"t"}, {"s"})
    assert rules.revoked_principals == {"users/ada": 7.0}


def test_equal_rules_are_written_alike() -> None:
    one = CallRules(grants={"users/a": frozenset({"x", "y"}), "users/b": frozenset({"z"})})
    two = CallRules(grants={"users/b": frozenset({"z"}), "users/a": frozenset({"y", "x"})})
    assert policy_source(one) == policy_source(two)


@pytest.mark.parametrize("name", ['x"] = 1 --', "x\\", "x\n]]", "ü", "x\0", "x' .. os.exit() .. '"])
def test_no_name_ends_the_string_that_it_stands_in(name: str) -> None:
    source = policy_source(CallRules(grants={name: frozenset({name})}))
    first = source.splitlines()[0]
    assert first.startswith('local grants = {["\\')
    assert first.count('"') == 4
    assert first.isprintable()
    assert first.isascii()
