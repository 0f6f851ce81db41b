"""The policy engine decides as the model says, while random policies replace one another; wrong engines are caught."""

import inspect
import os
from collections import Counter
from random import Random

import pytest

from chassis.access import Binding, Decision, PolicyReplica, PolicySnapshot
from chassis.call import Principal
from services.auth.explaining import Given, explain
from tests.auth.policy_model import Request, model, some_policy, some_requests

QUICK, WHOLE, EACH = 6_000, 120_000, 40  # decisions, and how many of them by one policy


class Disagreement(AssertionError):
    """An engine decided otherwise than the model."""


def compare(engine: PolicyReplica, seed: int, decisions: int) -> Counter[Decision]:
    """Ask one engine while policies replace one another; everything twice, the second time from its memory."""
    random, seen = Random(seed), Counter[Decision]()
    for revision in range(1, decisions // EACH + 1):
        policy = some_policy(random, revision)
        engine.apply(policy)
        asked = list(some_requests(random, EACH))
        for each in [*asked, *asked]:
            expected = model(policy, each.who, each.permission, each.resource)
            decided = engine.allowed(each.who, each.permission, each.resource)
            if decided is not expected:
                raise Disagreement(f"seed {seed}: {decided}, the model says {expected}: {each} by {policy}")
            seen[expected] += 1
    return seen


def seed_of() -> int:
    seed = int(os.environ.get("LEPTON_SEED", "0")) or Random().randrange(1 << 32)
    print(f"LEPTON_SEED={seed}")
    return seed


def test_the_engine_decides_as_the_model() -> None:
    seen = compare(PolicyReplica(), seed_of(), QUICK)
    assert min(seen[each] for each in Decision) > QUICK // 20  # each answer occurs often enough to mean something


@pytest.mark.slow
def test_the_engine_decides_as_the_model_100_000_times() -> None:
    seen = compare(PolicyReplica(), seed_of(), WHOLE)
    assert seen.total() >= 200_000  # half of them from memory


def test_the_model_is_small() -> None:
    assert len(inspect.getsource(model).splitlines()) <= 40


def test_an_explanation_agrees_with_the_decision() -> None:
    random, replica = Random(seed_of()), PolicyReplica()
    for revision in range(1, 101):
        policy = some_policy(random, revision)
        replica.apply(policy)
        for each in some_requests(random, 10):
            told = explain(replica, _given(policy), policy.roles, each.who, each.permission, each.resource)
            assert told.decision is model(policy, each.who, each.permission, each.resource)
            assert (told.decision is Decision.ALLOWED) == (bool(told.grants) and not told.limited_by), each
            # Without one of the bindings that it names, and no other, the caller would be refused.
            others = [given for given in _given(policy) if given.name not in {held.binding for held in told.grants}]
            left = PolicyReplica()
            left.apply(_policy_of(others, policy))
            assert left.allowed(each.who, each.permission, each.resource) is not Decision.ALLOWED
            if told.decision is not Decision.ALLOWED and not told.limited_by and told.granting_roles:
                added = Given(
                    name="b", role=told.granting_roles[0], scope=told.scopes[0], members=frozenset({each.who.name})
                )
                helped = PolicyReplica()
                helped.apply(_policy_of([*_given(policy), added], policy))
                assert helped.allowed(each.who, each.permission, each.resource) is Decision.ALLOWED


def _given(policy: PolicySnapshot) -> list[Given]:
    return [
        Given(name=str(number), role=each.role, scope=each.scope, members=frozenset({each.principal}))
        for number, each in enumerate(policy.bindings)
    ]


def _policy_of(given: list[Given], policy: PolicySnapshot) -> PolicySnapshot:
    bindings = tuple(Binding(principal=next(iter(each.members)), role=each.role, scope=each.scope) for each in given)
    return PolicySnapshot(revision=1, roles=policy.roles, bindings=bindings, issuer="i", audience="a")


class KeepsOldDecisions(PolicyReplica):
    def apply(self, snapshot: PolicySnapshot) -> None:
        kept = dict(self._decisions)
        super().apply(snapshot)
        self._decisions.update(kept)


class ForgetsWhoTheTokenIsFor(PolicyReplica):
    """Its memory goes by the principal's name: a limited token gets what an unlimited one was told."""

    def allowed(self, principal: Principal, permission: str, resource: str) -> Decision:
        key = (principal.name, permission, resource)
        if key not in self._decisions:
            self._decisions[key] = super()._decide(principal, permission, resource)
        return self._decisions[key]


class IgnoresLimits(PolicyReplica):
    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision:
        return super()._decide(Principal(name=principal.name), permission, resource)


class MatchesByText(PolicyReplica):
    """projects/acme rules projects/acmecorp."""

    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision:
        held = self._grants.get(principal.name, {})
        if any(resource.startswith(scope) and held[scope].grants(permission) for scope in held):
            return Decision.ALLOWED
        return super()._decide(principal, permission, resource)


class LetsRolesRise(PolicyReplica):
    """A role on a job counts for its project."""

    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision:
        held = self._grants.get(principal.name, {})
        if resource and any(scope.startswith(f"{resource}/") and held[scope].grants(permission) for scope in held):
            return Decision.ALLOWED
        return super()._decide(principal, permission, resource)


class TellsWhatThereIs(PolicyReplica):
    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision:
        decision = super()._decide(principal, permission, resource)
        return Decision.DENIED if decision is Decision.HIDDEN else decision


class StopsAtTheFirstRole(PolicyReplica):
    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision:
        decision = super()._decide(principal, permission, resource)
        everywhere = self._grants.get(principal.name, {}).get("*")
        is_first = decision is Decision.ALLOWED and everywhere is not None and not everywhere.grants(permission)
        return Decision.DENIED if is_first else decision


WRONG = [
    KeepsOldDecisions, ForgetsWhoTheTokenIsFor, IgnoresLimits, MatchesByText, LetsRolesRise, TellsWhatThereIs,
    StopsAtTheFirstRole,
]  # fmt: skip


@pytest.mark.parametrize("engine", WRONG, ids=lambda each: each.__name__)
def test_a_wrong_engine_is_caught(engine: type[PolicyReplica]) -> None:
    with pytest.raises(Disagreement):
        compare(engine(), seed_of(), QUICK)


def test_requests_are_of_every_kind() -> None:
    asked = list(some_requests(Random(1), 500))
    assert {bool(each.who.within) for each in asked} == {bool(each.who.permissions) for each in asked} == {True, False}
    assert all(isinstance(each, Request) for each in asked)
