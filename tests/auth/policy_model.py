"""What the access policy means, said as plainly as possible; and random policies and requests to compare engines by."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final
from zoneinfo import ZoneInfo

from chassis.access import Binding, Decision, PolicySnapshot
from chassis.call import Principal
from chassis.conditions import Attributes, Condition, Window

DAY_MINUTES: Final = 24 * 60


def model(
    policy: PolicySnapshot, who: Principal, permission: str, resource: str, asked: Attributes, now: datetime
) -> Decision:
    """The reference: no index, no cache, nothing shared with the engine. Half of it is how names and patterns match."""

    def lies_in(scope: str) -> bool:
        return scope == "*" or resource == scope or resource.startswith(scope + "/")

    def matches(pattern: str) -> bool:
        if pattern == "*":
            return True
        pairs = zip(pattern.split("."), permission.split("."), strict=True)
        return all(wanted in ("*", given) for wanted, given in pairs)

    def is_open(window: Window) -> bool:
        there = now.astimezone(ZoneInfo(window.zone)).replace(tzinfo=None)
        for start in (there.date() - timedelta(days=1), there.date()):
            begins = datetime.combine(start, datetime.min.time()) + timedelta(minutes=window.start)
            minutes = (window.end - window.start) % DAY_MINUTES or DAY_MINUTES
            if start.isoweekday() in window.days and begins <= there < begins + timedelta(minutes=minutes):
                return True
        return False

    def is_met(each: Condition) -> bool:
        in_pools = not each.pools or asked.pools is None or (bool(asked.pools) and set(asked.pools) <= each.pools)
        is_calm = each.max_priority is None or asked.priority is None or asked.priority <= each.max_priority
        return in_pools and is_calm and (not each.windows or any(map(is_open, each.windows)))

    is_out = bool(who.within) and not lies_in(who.within)
    counting = [each for each in policy.bindings if each.principal == who.name and lies_in(each.scope) and not is_out]
    if not counting and resource.startswith("projects/") and resource != "projects/":
        return Decision.HIDDEN
    met = [each for each in counting if each.condition is None or is_met(each.condition)]
    is_granted = any(matches(pattern) for each in met for pattern in policy.roles.get(each.role, ()))
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
POOLS: Final = ("pools/a", "pools/ab", "pools/b")
PRIORITIES: Final = (-10, 0, 5, 10)
# With daylight saving in both halves of the year, without, and zones that are not whole hours apart.
ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")
HOURS: Final = (0, 120, 150, 480, 1080, 1439, 1440)  # minutes of the day, those of daylight saving among them
# Around the changes of the clocks of 2026 in Berlin, New York and Lord Howe, and days that are like all others.
DAYS: Final = tuple(
    datetime(2026, month, day, tzinfo=UTC)
    for month, day in ((3, 8), (3, 29), (4, 4), (10, 3), (10, 25), (11, 1), (6, 10))
)


@dataclass(frozen=True, slots=True)
class Request:
    """A question of access."""

    who: Principal
    permission: str
    resource: str
    attributes: Attributes


def some_policy(random: Random, revision: int) -> PolicySnapshot:
    """A small random policy: small ones have more edges."""
    roles = {f"roles/r{number}": _patterns(random, 1, 4) for number in range(random.randint(1, 4))}
    bindings = tuple(
        Binding(
            principal=random.choice(PRINCIPALS),
            role=random.choice([*roles, "roles/deleted"]),
            scope=random.choice(SCOPES),
            condition=some_condition(random) if random.random() < 0.5 else None,
        )
        for _ in range(random.randint(0, 14))
    )
    return PolicySnapshot(revision=revision, roles=roles, bindings=bindings, issuer="i", audience="a")


def some_condition(random: Random) -> Condition:
    """One that says something."""
    kind = random.randrange(4)
    return Condition(
        pools=frozenset(random.sample(POOLS, random.randint(1, 2))) if kind in (0, 3) else frozenset(),
        max_priority=random.choice(PRIORITIES) if kind in (1, 3) else None,
        windows=tuple(some_window(random) for _ in range(random.randint(1, 2))) if kind in (2, 3) else (),
    )


def some_window(random: Random) -> Window:
    """Hours somewhere; some over midnight, some of a whole day."""
    days = frozenset(random.sample(range(1, 8), random.randint(1, 7)))
    return Window(days=days, start=random.choice(HOURS[:-1]), end=random.choice(HOURS), zone=random.choice(ZONES))


def some_time(random: Random) -> datetime:
    """A time, often at the edge of an hour that windows name."""
    minutes = random.choice(HOURS) + random.choice((-60, -1, 0, 0, 1, 60, random.randrange(DAY_MINUTES)))
    return random.choice(DAYS) + timedelta(minutes=minutes, seconds=random.choice((0, 59)))


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
        yield Request(who, permission, random.choice(RESOURCES), some_attributes(random))


def some_attributes(random: Random) -> Attributes:
    """Of a request that asks for machines, or of one that does not."""
    return Attributes(
        pools=tuple(sorted(random.sample(POOLS, random.randint(0, 2)))) if random.random() < 0.7 else None,
        priority=random.choice(PRIORITIES) if random.random() < 0.7 else None,
    )


def _patterns(random: Random, least: int, most: int) -> frozenset[str]:
    def pattern() -> str:
        if random.random() < 0.05:
            return "*"
        collection = "*" if random.random() < 0.15 else random.choice(COLLECTIONS)
        return f"{collection}.{'*' if collection != '*' and random.random() < 0.25 else random.choice(VERBS)}"

    return frozenset(pattern() for _ in range(random.randint(least, most)))
