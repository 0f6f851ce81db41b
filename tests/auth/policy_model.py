"""What the access policy means, said as plainly as possible; and random policies and requests to compare engines by."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from chassis.access import Binding, Decision, PolicySnapshot
from chassis.call import Principal


def model(policy: PolicySnapshot, who: Principal, permission: str, resource: str) -> Decision:
    """The reference: no index, no cache, nothing shared with the engine. Half of it is how names and patterns match."""

    def lies_in(scope: str) -> bool:
        return scope == "*" or resource == scope or resource.startswith(scope + "/")

    def matches(pattern: str) -> bool:
        if pattern == "*":
            return True
        pairs = zip(pattern.split("."), permission.split("."), strict=True)
        return all(wanted in ("*", given) for wanted, given in pairs)

    is_out = bool(who.within) and not lies_in(who.within)
    counting = (
        [] if is_out else [each for each in policy.bindings if each.principal == who.name and lies_in(each.scope)]
    )
    if not counting and resource.startswith("projects/") and resource != "projects/":
        return Decision.HIDDEN
    is_granted = any(matches(pattern) for each in counting for pattern in policy.roles.get(each.role, ()))
    is_kept = not who.permissions or any(matches(pattern) for pattern in who.permissions)
    return Decision.ALLOWED if is_granted and is_kept else Decision.DENIED


PRINCIPALS: Final = ("users/ann", "users/ben", "projects/acme/serviceAccounts/ci")
COLLECTIONS: Final = ("jobs", "models", "pools")
VERBS: Final = ("get", "list", "create", "delete")
# Names that are prefixes of one another, collections, things within things, and names that nobody should send.
RESOURCES: Final = (
    "", "projects/acme", "projects/acmecorp", "projects/a", "projects/other", "projects/acme/jobs",
    "projects/acme/jobs/d", "projects/acme/jobs/digits", "projects/acme/jobs/digits/checkpoints/5",
    "projects/acme/jobs/digits2", "projects/other/jobs/digits", "projects/acmecorp/jobs/digits", "pools", "pools/a",
    "pools/a/nodes/n", "pools/ab", "projects", "projects/", "projects/acme/", "projects/acme/jobs/", "users/ann",
    "jobs/digits",
)  # fmt: skip
SCOPES: Final = ("*", *(each for each in RESOURCES if each.count("/") % 2 and not each.endswith("/")))


@dataclass(frozen=True, slots=True)
class Request:
    """A question of access."""

    who: Principal
    permission: str
    resource: str


def some_policy(random: Random, revision: int) -> PolicySnapshot:
    """A small random policy: small ones have more edges."""
    roles = {f"roles/r{number}": _patterns(random, 1, 4) for number in range(random.randint(1, 4))}
    bindings = tuple(
        Binding(
            principal=random.choice(PRINCIPALS),
            role=random.choice([*roles, "roles/deleted"]),
            scope=random.choice(SCOPES),
        )
        for _ in range(random.randint(0, 14))
    )
    return PolicySnapshot(revision=revision, roles=roles, bindings=bindings, issuer="i", audience="a")


def some_requests(random: Random, count: int) -> Iterator[Request]:
    """Questions about it, some by tokens that are good for less than their principal."""
    for _ in range(count):
        is_limited = random.random() < 0.4
        who = Principal(
            name=random.choice(PRINCIPALS),
            permissions=tuple(sorted(_patterns(random, 0, 2))) if is_limited else (),
            within=random.choice(SCOPES[1:]) if is_limited and random.random() < 0.7 else "",
        )
        permission = f"{random.choice(COLLECTIONS)}.{random.choice(VERBS)}"
        yield Request(who, permission, random.choice(RESOURCES))


def _patterns(random: Random, least: int, most: int) -> frozenset[str]:
    def pattern() -> str:
        if random.random() < 0.05:
            return "*"
        collection = "*" if random.random() < 0.15 else random.choice(COLLECTIONS)
        return f"{collection}.{'*' if collection != '*' and random.random() < 0.25 else random.choice(VERBS)}"

    return frozenset(pattern() for _ in range(random.randint(least, most)))
