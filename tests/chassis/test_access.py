"""Tokens and the policy replica: what is verified, what is remembered, what a change of policy does."""

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from json import dumps
from time import time
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from chassis.access import Binding, Decision, PolicyReplica, PolicySnapshot
from chassis.call import Principal
from lepton import errors
from tests.harness.clock import ManualClock
from tests.harness.mesh import DEFAULT_BINDINGS, ROLES
from tests.harness.pki import TokenSigner

SIGNER = TokenSigner()


def snapshot(revision: int = 1, **changes: Any) -> PolicySnapshot:
    values: dict[str, Any] = {
        "roles": ROLES,
        "bindings": DEFAULT_BINDINGS,
        "jwks": SIGNER.jwks,
        "issuer": SIGNER.issuer,
        "audience": SIGNER.audience,
    }
    return PolicySnapshot(revision=revision, **(values | changes))


@pytest.fixture
def replica() -> PolicyReplica:
    made = PolicyReplica()
    made.apply(snapshot())
    return made


def test_a_valid_token_names_its_principal(replica: PolicyReplica) -> None:
    token = SIGNER.token("users/alice", jti="t-1", projects=["acme"])
    principal = replica.verify(token)
    assert (principal.name, principal.token_id, principal.projects) == ("users/alice", "t-1", ("acme",))
    assert replica.verify(token) is principal  # remembered


BAD_CLAIMS = [  # times are seconds from now
    ({"exp": -60}, "TOKEN_EXPIRED"),
    ({"exp": -20}, None),  # within the leeway
    ({"nbf": 90}, "TOKEN_INVALID"),
    ({"nbf": 20}, None),
    ({"iss": "https://elsewhere"}, "TOKEN_INVALID"),
    ({"aud": "another"}, "TOKEN_INVALID"),
    ({"exp": "32503680000"}, "TOKEN_INVALID"),
    ({"sub": ""}, "TOKEN_INVALID"),
    *(({claim: None}, "TOKEN_INVALID") for claim in ("iss", "aud", "exp", "nbf", "iat", "sub", "jti")),
]


@pytest.mark.parametrize(("claims", "reason"), BAD_CLAIMS, ids=str)
def test_every_claim_is_checked(replica: PolicyReplica, claims: dict[str, Any], reason: str | None) -> None:
    times = {name: int(time()) + value for name, value in claims.items() if isinstance(value, int)}
    token = SIGNER.token("users/alice", **(claims | times))
    if reason is None:
        assert replica.verify(token).name == "users/alice"
        return
    with pytest.raises(errors.Unauthenticated) as caught:
        replica.verify(token)
    assert caught.value.reason == reason


def _unsigned(header: dict[str, Any]) -> str:
    part = [urlsafe_b64encode(dumps(each).encode()).rstrip(b"=").decode() for each in (header, {"sub": "users/root"})]
    return f"{part[0]}.{part[1]}."


FORGED = [
    _unsigned({"alg": "none"}),
    _unsigned({"alg": "nOnE"}),
    SIGNER.token("users/alice")[:-4],
    TokenSigner().token("users/alice"),
    jwt.encode({"alg": "HS256"}, {"sub": "users/root"}, OctKey.import_key(dumps(SIGNER.jwks)), algorithms=["HS256"]),
    "not a token",
    "",
    "a" * 5000,
    "é",
]


@pytest.mark.parametrize("token", FORGED)
def test_a_forged_token_is_refused(replica: PolicyReplica, token: str) -> None:
    with pytest.raises(errors.Unauthenticated, match="TOKEN_INVALID"):
        replica.verify(token)


def test_a_remembered_token_still_expires() -> None:
    clock = ManualClock(datetime.now(UTC))
    replica = PolicyReplica(clock)
    replica.apply(snapshot())
    token = SIGNER.token("users/alice")
    replica.verify(token)
    clock._elapsed_s = 300 + 31
    with pytest.raises(errors.Unauthenticated, match="TOKEN_EXPIRED"):
        replica.verify(token)


@pytest.mark.parametrize(
    "revocation",
    [
        {"revoked_tokens": frozenset({"t-1"})},
        {"revoked_sessions": frozenset({"s-1"})},
        {"revoked_principals": {"users/alice": time() + 3600}},
    ],
    ids=lambda each: next(iter(each)),
)
def test_a_revoked_token_is_refused_even_when_remembered(replica: PolicyReplica, revocation: dict[str, Any]) -> None:
    token = SIGNER.token("users/alice", jti="t-1", sid="s-1")
    replica.verify(token)
    replica.apply(snapshot(2, **revocation))
    for _ in range(2):
        with pytest.raises(errors.Unauthenticated, match="TOKEN_REVOKED"):
            replica.verify(token)
    assert replica.verify(SIGNER.token("users/bob")).name == "users/bob"


DECISIONS = [
    ("users/alice", "jobs.create", "projects/acme", Decision.ALLOWED),
    ("users/alice", "jobs.get", "projects/acme/jobs/one", Decision.ALLOWED),
    ("users/alice", "models.delete", "projects/acme/models/m", Decision.DENIED),
    ("users/alice", "jobs.get", "projects/other/jobs/one", Decision.HIDDEN),
    ("users/alice", "jobs.get", "projects/absent/jobs/one", Decision.HIDDEN),
    ("users/alice", "pools.create", "pools/general", Decision.DENIED),
    ("users/alice", "pools.create", "", Decision.DENIED),
    ("users/carol", "jobs.get", "projects/acme/jobs/one", Decision.ALLOWED),
    ("users/carol", "jobs.create", "projects/acme", Decision.DENIED),
    ("users/root", "anything.at.all", "projects/acme", Decision.ALLOWED),
    ("users/root", "pools.create", "", Decision.ALLOWED),
    ("users/nobody", "jobs.get", "projects/acme/jobs/one", Decision.HIDDEN),
    ("users/alice", "jobs.get", "projects/acmecorp/jobs/one", Decision.HIDDEN),
]


@pytest.mark.parametrize(("principal", "permission", "resource", "expected"), DECISIONS)
def test_decisions(replica: PolicyReplica, principal: str, permission: str, resource: str, expected: Decision) -> None:
    who = Principal(name=principal)
    assert replica.allowed(who, permission, resource) is expected
    assert replica.allowed(who, permission, resource) is expected  # from memory


def test_a_new_policy_forgets_old_decisions(replica: PolicyReplica) -> None:
    alice = Principal(name="users/alice")
    assert replica.allowed(alice, "jobs.get", "projects/acme") is Decision.ALLOWED
    replica.apply(snapshot(2, bindings=()))
    assert replica.allowed(alice, "jobs.get", "projects/acme") is Decision.HIDDEN
    replica.apply(snapshot(1))  # late and old
    assert replica.allowed(alice, "jobs.get", "projects/acme") is Decision.HIDDEN
    assert replica.revision == 2


def test_projects_of_a_principal(replica: PolicyReplica) -> None:
    assert replica.projects_of(Principal(name="users/alice")) == {"acme"}
    assert replica.projects_of(Principal(name="users/root")) == {"*"}
    assert replica.projects_of(Principal(name="users/nobody")) == frozenset()


def test_without_a_policy_nothing_is_decided() -> None:
    replica = PolicyReplica()
    with pytest.raises(errors.Unavailable, match="POLICY_NOT_READY"):
        replica.verify(SIGNER.token("users/alice"))
    with pytest.raises(errors.Unavailable, match="POLICY_NOT_READY"):
        replica.allowed(Principal(name="users/alice"), "jobs.get", "projects/acme")


@pytest.mark.parametrize("missing", ["issuer", "audience"])
def test_a_policy_without_issuer_or_audience_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match="issuer and the audience"):
        PolicyReplica().apply(snapshot(**{missing: ""}))


async def test_a_broken_feed_is_opened_again() -> None:
    replica, opened = PolicyReplica(), 0

    async def feed() -> AsyncIterator[PolicySnapshot]:
        nonlocal opened
        opened += 1
        yield snapshot(opened, bindings=(Binding(principal="users/a", role="roles/viewer", scope="*"),))
        raise errors.Unavailable("UNREACHABLE")

    async def stop_after_three(_: float) -> None:
        if opened == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await replica.follow_forever(feed, stop_after_three)
    assert replica.revision == 3
