"""What a decision of access costs in process: live tokens, fresh ones, grants with conditions."""

from itertools import cycle
from statistics import median
from time import perf_counter, perf_counter_ns, process_time
from typing import Any

from joserfc import jwt
from joserfc.jwk import KeySet

from chassis.access import Binding, Decision, PolicyReplica, PolicySnapshot
from chassis.call import Principal
from chassis.conditions import Attributes, Condition, Window
from tests.harness.pki import TokenSigner

LIVE, COLD_SHARE, DECISIONS = 10_000, 0.01, 200_000


_PERMISSION, _RESOURCE = "jobs.create", "projects/p{}/jobs/digits"


def decisions(rounds: int = 7) -> dict[str, Any]:
    """Token and permission, as the middleware asks: live tokens with 1 % never seen, against verifying each one."""
    signer, replica = TokenSigner(), PolicyReplica()
    people = range(LIVE)
    bindings = (Binding(principal=f"users/u{n}", role="roles/dev", scope=f"projects/p{n % 1000}") for n in people)
    policy = PolicySnapshot(
        revision=1,
        roles={"roles/dev": frozenset({"jobs.*", "models.get"})},
        bindings=tuple(bindings),
        jwks=signer.jwks,
        issuer=signer.issuer,
        audience=signer.audience,
    )
    replica.apply(policy)
    live = [(signer.token(f"users/u{n}", projects=[f"p{n % 1000}"]), _RESOURCE.format(n % 1000)) for n in people]
    for token, resource in live:
        _decide(replica, token, resource)
    tokens = [token for token, _ in live[:2000]]
    # In turns and in CPU time, because this process is seldom alone on its core.
    rates = [(_mixed(replica, signer, live), _uncached(signer, tokens)) for _ in range(rounds)]
    latencies = _latencies(replica, live)
    checks = _checks(replica, live)
    rate, uncached = (median(each) for each in zip(*rates, strict=True))
    return {
        "live_tokens": LIVE,
        "cold_share": COLD_SHARE,
        "decisions_per_s": round(rate),
        "uncached_eddsa_per_s": round(uncached),
        "decisions_vs_uncached": round(median(one / other for one, other in rates), 1),
        "permission_checks_per_s": round(checks),
        "conditional_checks_per_s": round(_conditional_checks()),
        "in_process_p50_us": latencies[len(latencies) // 2] / 1000,
        "in_process_p99_us": latencies[len(latencies) * 99 // 100] / 1000,
        "in_process_p999_us": latencies[len(latencies) * 999 // 1000] / 1000,
        "cold_p50_us": round(1e6 * _cold_s(replica, signer), 1),
    }


def _decide(replica: PolicyReplica, token: str, resource: str) -> None:
    if replica.allowed(replica.verify(token), _PERMISSION, resource) is not Decision.ALLOWED:
        raise SystemExit("a decision that must allow did not: the figures would be worthless")


def _uncached(signer: TokenSigner, tokens: list[str]) -> float:
    """What a service without a memory does: the library's verification, with the claims checked."""
    keys, needed = KeySet.import_key_set(signer.jwks), {"essential": True}  # type: ignore[arg-type]
    claims = {"iss": {"essential": True, "value": signer.issuer}, "aud": needed, "exp": needed}
    registry = jwt.JWTClaimsRegistry(leeway=30, **claims)  # type: ignore[arg-type]
    started = process_time()
    for token in tokens:
        registry.validate(jwt.decode(token, keys, algorithms=["EdDSA"]).claims)
    return len(tokens) / (process_time() - started)


def _mixed(replica: PolicyReplica, signer: TokenSigner, live: list[tuple[str, str]]) -> float:
    """Decisions per second; one in a hundred is about a token that nobody has seen."""
    every = round(1 / COLD_SHARE)
    fresh = [f"Bearer {signer.token(f'users/u{n}', projects=[f'p{n % 1000}'])}" for n in range(DECISIONS // every)]
    known = [(f"Bearer {token}", resource) for token, resource in live]
    mixed = [
        (fresh[turn // every], _RESOURCE.format(turn // every % 1000)) if turn % every == 0 else pair
        for turn, pair in zip(range(DECISIONS), cycle(known), strict=False)
    ]
    verify, allowed, permission, wanted = replica.verify, replica.allowed, _PERMISSION, Decision.ALLOWED
    started = process_time()
    for header, resource in mixed:
        # Cut out as the middleware does: a text that was hashed before would flatter the memory of tokens.
        if allowed(verify(header[7:]), permission, resource) is not wanted:
            raise SystemExit("a decision that must allow did not: the figures would be worthless")
    return DECISIONS / (process_time() - started)


def _latencies(replica: PolicyReplica, live: list[tuple[str, str]]) -> list[int]:
    """Nanoseconds of decisions about live tokens, sorted."""
    taken = []
    for header, resource in [(f"Bearer {token}", resource) for token, resource in live] * 10:
        started = perf_counter_ns()
        _decide(replica, header[7:], resource)
        taken.append(perf_counter_ns() - started)
    return sorted(taken)


def _cold_s(replica: PolicyReplica, signer: TokenSigner) -> float:
    taken = []
    for number in range(500):
        token = signer.token(f"users/u{number}")
        started = perf_counter()
        replica.verify(token)
        taken.append(perf_counter() - started)
    return median(taken)


def _checks(replica: PolicyReplica, live: list[tuple[str, str]]) -> float:
    """Permission checks per second, the caller being known."""
    asked = [(replica.verify(token), resource) for token, resource in live] * 10
    allowed = replica.allowed
    started = process_time()
    for principal, resource in asked:
        allowed(principal, _PERMISSION, resource)
    return len(asked) / (process_time() - started)


def _conditional_checks() -> float:
    """Checks per second of grants for pools, priority and working hours, which no memory answers."""
    hours = (Window(days=frozenset(range(1, 8)), start=0, end=24 * 60, zone="Europe/Berlin"),)
    condition = Condition(pools=frozenset({"pools/a", "pools/b"}), max_priority=5, windows=hours)
    binding = Binding(principal="users/u", role="roles/dev", scope="projects/p", condition=condition)
    replica = PolicyReplica()
    roles = {"roles/dev": frozenset({"jobs.*"})}
    replica.apply(PolicySnapshot(revision=1, roles=roles, bindings=(binding,), issuer="i", audience="a"))
    principal, attributes = Principal(name="users/u"), Attributes(pools=("pools/b",), priority=3)
    if replica.allowed(principal, _PERMISSION, "projects/p", attributes) is not Decision.ALLOWED:
        raise SystemExit("a decision that must allow did not: the figures would be worthless")
    started = process_time()
    for _ in range(DECISIONS):
        replica.allowed(principal, _PERMISSION, "projects/p", attributes)
    return DECISIONS / (process_time() - started)
