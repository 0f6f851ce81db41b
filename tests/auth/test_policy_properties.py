"""The policy engine decides as the model says, while random policies replace one another; wrong engines are caught."""

import inspect
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from random import Random

import pytest

from chassis.access import Binding, Decision, PolicyReplica, PolicySnapshot
from chassis.call import Principal
from chassis.conditions import NO_ATTRIBUTES, Attributes, Condition
from services.auth.access_effects import Access, effects
from services.auth.explaining import Given, explain
from tests.auth.policy_model import (
    COLLECTIONS,
    PRINCIPALS,
    SCOPES,
    VERBS,
    Request,
    model,
    some_attributes,
    some_policy,
    some_requests,
    some_time,
)
from tests.harness.clock import ManualClock
from tests.harness.seeds import some_seed

QUICK, WHOLE, EACH = 12_000, 120_000, 40  # decisions, and how many of them by one policy
PERMISSIONS = [f"{collection}.{verb}" for collection in COLLECTIONS for verb in VERBS]


class Disagreement(AssertionError):
    """An engine decided otherwise than the model."""


class Times(ManualClock):
    """A clock that is set, and not advanced: time goes back as well."""

    def set(self, now: datetime) -> None:
        self._start = now


def engine_of(kind: type[PolicyReplica]) -> tuple[PolicyReplica, Times]:
    clock = Times(datetime(2026, 1, 1, tzinfo=UTC))
    return kind(clock), clock


def compare(kind: type[PolicyReplica], seed: int, decisions: int) -> Counter[Decision]:
    """Ask one engine while policies replace one another; everything twice, from its memory and at another time."""
    random, seen = Random(seed), Counter[Decision]()
    engine, clock = engine_of(kind)
    for revision in range(1, decisions // EACH + 1):
        policy = some_policy(random, revision)
        engine.apply(policy)
        asked = list(some_requests(random, EACH))
        again = [replace(each, attributes=some_attributes(random)) for each in asked]
        for turn in (asked, again):
            now = some_time(random)
            clock.set(now)
            for each in turn:
                expected = model(policy, each.who, each.permission, each.resource, each.attributes, now)
                decided = engine.allowed(each.who, each.permission, each.resource, each.attributes)
                if decided is not expected:
                    raise Disagreement(
                        f"seed {seed}: {decided}, the model says {expected}: {each} at {now} by {policy}"
                    )
                seen[expected] += 1
    return seen


def test_the_engine_decides_as_the_model() -> None:
    seen = compare(PolicyReplica, some_seed(), QUICK)
    assert min(seen[each] for each in Decision) > QUICK // 20  # each answer occurs often enough to mean something


@pytest.mark.slow
def test_the_engine_decides_as_the_model_100_000_times() -> None:
    seen = compare(PolicyReplica, some_seed(), WHOLE)
    assert seen.total() >= 200_000


@pytest.mark.slow
def test_the_engine_decides_as_the_model_by_100_000_policies() -> None:
    """One request of each, so that what is asked varies less than what decides."""
    random, (engine, clock) = Random(some_seed()), engine_of(PolicyReplica)
    for revision in range(1, 100_001):
        policy, now = some_policy(random, revision), some_time(random)
        clock.set(now)
        engine.apply(policy)
        (each,) = some_requests(random, 1)
        expected = model(policy, each.who, each.permission, each.resource, each.attributes, now)
        assert engine.allowed(each.who, each.permission, each.resource, each.attributes) is expected, (
            each,
            now,
            policy,
        )


def test_the_model_is_small() -> None:
    assert len(inspect.getsource(model).splitlines()) <= 40


def test_an_explanation_agrees_with_the_decision() -> None:
    random, (replica, clock) = Random(some_seed()), engine_of(PolicyReplica)
    for revision in range(1, 101):
        policy, now = some_policy(random, revision), some_time(random)
        clock.set(now)
        replica.apply(policy)
        minute = int(now.timestamp() // 60)
        for each in some_requests(random, 10):
            question = each.who, each.permission, each.resource, each.attributes
            told = explain(replica, _given(policy), policy.roles, *question, minute)
            assert told.decision is model(policy, *question, now)
            assert (told.decision is Decision.ALLOWED) == (bool(told.grants) and not told.limited_by), each
            assert all(held.unmet and held.condition for held in told.withheld)
            # Without one of the bindings that it names, and no other, the caller would be refused.
            others = [given for given in _given(policy) if given.name not in {held.binding for held in told.grants}]
            assert _asked(_policy_of(others, policy), clock, each) is not Decision.ALLOWED
            if told.decision is not Decision.ALLOWED and not told.limited_by and told.granting_roles:
                added = Given(
                    name="b", role=told.granting_roles[0], scope=told.scopes[0], members=frozenset({each.who.name})
                )
                assert _asked(_policy_of([*_given(policy), added], policy), clock, each) is Decision.ALLOWED
            if told.withheld and not told.limited_by:  # the condition that it names is what is in the way
                freed = [
                    replace(given, condition=None) if given.name == told.withheld[0].binding else given
                    for given in _given(policy)
                ]
                assert _asked(_policy_of(freed, policy), clock, each) is Decision.ALLOWED


def test_a_preview_says_what_decisions_change() -> None:
    random, clock = Random(some_seed()), Times(datetime(2026, 1, 1, tzinfo=UTC))
    changes = Counter[bool]()
    for revision in range(1, 151):
        before, after = some_policy(random, 1), some_policy(random, 1)
        if revision % 2:  # a write changes little: a binding more, or less
            kept = before.bindings[1:]
            after = replace(before, bindings=kept if revision % 4 == 1 else (*kept, *after.bindings[:1]))
        told = effects(Access(_given(before), before.roles), Access(_given(after), after.roles), PERMISSIONS)
        for principal in PRINCIPALS:
            for scope in SCOPES:
                now, attributes = some_time(random), some_attributes(random)
                clock.set(now)
                permission = random.choice(PERMISSIONS)
                asked = Request(Principal(name=principal), permission, "" if scope == "*" else scope, attributes)
                was, will = (_asked(policy, clock, asked) is Decision.ALLOWED for policy in (before, after))
                around = [each for each in told if each.principal == principal and _is_around(each.scope, scope)]
                if will and not was:
                    assert any(permission in each.gained for each in around), (asked, before, after, told)
                if was and not will:
                    assert any(permission in each.lost for each in around), (asked, before, after, told)
                changes[will != was] += 1
    assert changes[True] > 200


def test_a_preview_of_no_change_is_empty() -> None:
    policy = some_policy(Random(some_seed()), 1)
    held = Access(_given(policy), policy.roles)
    assert effects(held, Access(reversed(_given(policy)), policy.roles), PERMISSIONS) == []


def _is_around(scope: str, place: str) -> bool:
    return scope in ("*", place) or place.startswith(f"{scope}/")


def _asked(policy: PolicySnapshot, clock: Times, asked: Request) -> Decision:
    replica = PolicyReplica(clock)
    replica.apply(policy)
    return replica.allowed(asked.who, asked.permission, asked.resource, asked.attributes)


def _given(policy: PolicySnapshot) -> list[Given]:
    return [
        Given(
            name=str(number),
            role=each.role,
            scope=each.scope,
            members=frozenset({each.principal}),
            condition=each.condition,
        )
        for number, each in enumerate(policy.bindings)
    ]


def _policy_of(given: list[Given], policy: PolicySnapshot) -> PolicySnapshot:
    bindings = tuple(
        Binding(principal=next(iter(each.members)), role=each.role, scope=each.scope, condition=each.condition)
        for each in given
    )
    return PolicySnapshot(revision=1, roles=policy.roles, bindings=bindings, issuer="i", audience="a")


class KeepsOldDecisions(PolicyReplica):
    def apply(self, snapshot: PolicySnapshot) -> None:
        kept = dict(self._decisions)
        super().apply(snapshot)
        self._decisions.update(kept)


class KeepsOldConditions(PolicyReplica):
    def apply(self, snapshot: PolicySnapshot) -> None:
        kept = dict(self._conditional)
        super().apply(snapshot)
        self._conditional.update(kept)


class ForgetsWhatIsAsked(PolicyReplica):
    """Its memory leaves out the attributes: what was allowed in one pool is allowed in another."""

    def allowed(
        self, principal: Principal, permission: str, resource: str, attributes: Attributes = NO_ATTRIBUTES
    ) -> Decision:
        decision = super().allowed(principal, permission, resource, attributes)
        who = (principal.name, principal.permissions, principal.within) if principal.is_limited else principal.name
        self._decisions.setdefault((who, permission, resource), decision)
        return decision


class ForgetsWhoTheTokenIsFor(PolicyReplica):
    """Its memory goes by the principal's name: a limited token gets what an unlimited one was told."""

    def allowed(
        self, principal: Principal, permission: str, resource: str, attributes: Attributes = NO_ATTRIBUTES
    ) -> Decision:
        key = (principal.name, permission, resource)
        if key not in self._decisions:
            found = super()._decide(principal, permission, resource)
            if not isinstance(found, Decision):
                return super().allowed(principal, permission, resource, attributes)
            self._decisions[key] = found
        return self._decisions[key]


class IgnoresLimits(PolicyReplica):
    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision | tuple[Condition, ...]:
        return super()._decide(Principal(name=principal.name), permission, resource)


class IgnoresConditions(PolicyReplica):
    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision | tuple[Condition, ...]:
        found = super()._decide(principal, permission, resource)
        return found if isinstance(found, Decision) else Decision.ALLOWED


class LooksAtTheFirstConditionOnly(PolicyReplica):
    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision | tuple[Condition, ...]:
        found = super()._decide(principal, permission, resource)
        return found if isinstance(found, Decision) else found[:1]


class TakesNoPoolForAllowed(PolicyReplica):
    """A request that names no pool would run in any."""

    def allowed(
        self, principal: Principal, permission: str, resource: str, attributes: Attributes = NO_ATTRIBUTES
    ) -> Decision:
        return super().allowed(principal, permission, resource, replace(attributes, pools=attributes.pools or None))


class LivesInUtc(PolicyReplica):
    def apply(self, snapshot: PolicySnapshot) -> None:
        bindings = tuple(
            each
            if each.condition is None
            else replace(
                each,
                condition=replace(
                    each.condition, windows=tuple(replace(window, zone="UTC") for window in each.condition.windows)
                ),
            )
            for each in snapshot.bindings
        )
        super().apply(replace(snapshot, bindings=bindings))


class MatchesByText(PolicyReplica):
    """projects/acme rules projects/acmecorp."""

    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision | tuple[Condition, ...]:
        held = self._grants.get(principal.name, {})
        if any(resource.startswith(scope) and held[scope].always.grants(permission) for scope in held):
            return Decision.ALLOWED
        return super()._decide(principal, permission, resource)


class LetsRolesRise(PolicyReplica):
    """A role on a job counts for its project."""

    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision | tuple[Condition, ...]:
        held = self._grants.get(principal.name, {})
        inside = (held[scope] for scope in held if resource and scope.startswith(f"{resource}/"))
        if any(each.always.grants(permission) for each in inside):
            return Decision.ALLOWED
        return super()._decide(principal, permission, resource)


class TellsWhatThereIs(PolicyReplica):
    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision | tuple[Condition, ...]:
        decision = super()._decide(principal, permission, resource)
        return Decision.DENIED if decision is Decision.HIDDEN else decision


class StopsAtTheFirstRole(PolicyReplica):
    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision | tuple[Condition, ...]:
        decision = super()._decide(principal, permission, resource)
        everywhere = self._grants.get(principal.name, {}).get("*")
        is_first = decision is Decision.ALLOWED and everywhere is not None and not everywhere.always.grants(permission)
        return Decision.DENIED if is_first else decision


WRONG = [
    KeepsOldDecisions, KeepsOldConditions, ForgetsWhatIsAsked, ForgetsWhoTheTokenIsFor, IgnoresLimits,
    IgnoresConditions, LooksAtTheFirstConditionOnly, TakesNoPoolForAllowed, LivesInUtc, MatchesByText, LetsRolesRise,
    TellsWhatThereIs, StopsAtTheFirstRole,
]  # fmt: skip


@pytest.mark.parametrize("kind", WRONG, ids=lambda each: each.__name__)
def test_a_wrong_engine_is_caught(kind: type[PolicyReplica]) -> None:
    with pytest.raises(Disagreement):  # most within QUICK, a subtle one later
        compare(kind, some_seed(), WHOLE)


def test_requests_are_of_every_kind() -> None:
    asked = list(some_requests(Random(1), 500))
    assert {bool(each.who.within) for each in asked} == {bool(each.who.permissions) for each in asked} == {True, False}
    assert {each.attributes.pools is None for each in asked} == {each.attributes.priority is None for each in asked}
    assert all(isinstance(each, Request) for each in asked)
