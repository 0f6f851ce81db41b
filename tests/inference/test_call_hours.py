"""Hours of grants at the gateway: the rules change at the minute at which a window opens or ends, and no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from chassis.access import Binding, PolicySnapshot
from chassis.conditions import EVERY_DAY, Condition, Window
from services.inference.call_hours import CallHours
from services.inference.envoy.access import CallRules
from tests.harness.clock import ManualClock

DORA = "users/dora"
BERLIN = "Europe/Berlin"


def policy(*windows: Window, revision: int = 1, role: str = "viewer", scope: str = "projects/acme") -> PolicySnapshot:
    binding = Binding(principal=DORA, role=f"roles/{role}", scope=scope, condition=Condition(windows=windows))
    roles = {"roles/viewer": frozenset({"deployments.get"}), "roles/trainer": frozenset({"jobs.*"})}
    return PolicySnapshot(revision=revision, roles=roles, bindings=(binding,), issuer="i", audience="a")


def hours(start: int, end: int, zone: str = "UTC", days: frozenset[int] = EVERY_DAY) -> Window:
    return Window(days=days, start=start, end=end, zone=zone)


@dataclass
class Told:
    """The gateway's rules as they were told, with the times of the clock."""

    clock: ManualClock
    rules: list[tuple[str, bool]] = field(default_factory=list)

    def note(self, _: PolicySnapshot, rules: CallRules) -> None:
        is_open, is_known = DORA in rules.grants, DORA in rules.known
        assert is_open is not is_known  # outside of the hours she hears that she may not, not that there is nothing
        self.rules.append((f"{self.clock.now():%d %H:%M:%S}", is_open))


@asynccontextmanager
async def told(now: str, snapshot: PolicySnapshot) -> AsyncIterator[tuple[Told, CallHours]]:
    clock = ManualClock(datetime.fromisoformat(now).replace(tzinfo=UTC))
    said, made = Told(clock), CallHours(clock)
    made.on_change(said.note)
    running = asyncio.create_task(made.run())
    made.use(snapshot)
    await clock.settle()
    try:
        yield said, made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("now", "window", "for_h", "expected"),
    [
        (
            "2026-06-08T07:59:30",
            hours(480, 1080),
            24,
            [("08 07:59:30", False), ("08 08:00:00", True), ("08 18:00:00", False)],
        ),
        (  # over midnight, and over a Monday that is none of its days
            "2026-06-07T21:00",
            hours(1320, 360, days=frozenset({7, 2})),
            49,
            [("07 21:00:00", False), ("07 22:00:00", True), ("08 06:00:00", False), ("09 22:00:00", True)],
        ),
        ("2026-06-08T12:00", hours(0, 1440), 48, [("08 12:00:00", True)]),
        (  # the hour that there is twice
            "2026-10-24T23:00",
            hours(150, 180, BERLIN),
            6,
            [
                ("24 23:00:00", False),
                ("25 00:30:00", True),
                ("25 01:00:00", False),
                ("25 01:30:00", True),
                ("25 02:00:00", False),
            ],
        ),
        (  # the hour that there is not: 02:30 begins with 03:00
            "2026-03-29T00:00",
            hours(150, 240, BERLIN),
            6,
            [("29 00:00:00", False), ("29 01:00:00", True), ("29 02:00:00", False)],
        ),
    ],
    ids=["day", "midnight", "always", "clocks set back", "clocks set forth"],
)
async def test_rules_change_when_a_window_opens_or_ends(
    now: str, window: Window, for_h: int, expected: list[tuple[str, bool]]
) -> None:
    async with told(now, policy(window)) as (said, _):
        await said.clock.advance(for_h * 3600)
        assert said.rules == expected


async def test_two_windows_that_meet_are_one() -> None:
    async with told("2026-06-08T07:00", policy(hours(480, 720), hours(720, 1080))) as (said, _):
        await said.clock.advance(12 * 3600)
        assert [is_open for _, is_open in said.rules] == [False, True, True, False]


@pytest.mark.parametrize(("role", "scope"), [("trainer", "projects/acme"), ("viewer", "projects/acme/jobs/one")])
async def test_hours_that_give_no_predictions_wake_nobody(role: str, scope: str) -> None:
    seen: list[int] = []
    clock = ManualClock(datetime(2026, 6, 8, 7, 59, tzinfo=UTC))
    made = CallHours(clock)
    made.on_change(lambda snapshot, _: seen.append(snapshot.revision))
    running = asyncio.create_task(made.run())
    made.use(policy(hours(480, 1080), role=role, scope=scope))
    await clock.advance(24 * 3600)
    assert seen == [1]
    running.cancel()


async def test_a_new_policy_counts_at_once_and_the_old_ones_hours_no_more() -> None:
    async with told("2026-06-08T12:00", policy(hours(480, 1080))) as (said, made):
        made.use(policy(hours(780, 840), revision=2))
        assert said.rules[-1] == ("08 12:00:00", False)
        await said.clock.advance(7 * 3600)
        assert said.rules[2:] == [("08 13:00:00", True), ("08 14:00:00", False)]


async def test_without_the_watch_rules_outlive_their_window() -> None:
    """The negative control."""
    clock = ManualClock(datetime(2026, 6, 8, 17, 59, tzinfo=UTC))
    said, made = Told(clock), CallHours(clock)
    made.on_change(said.note)
    made.use(policy(hours(480, 1080)))
    await clock.advance(3600)
    assert said.rules == [("08 17:59:00", True)]


class SetClock(ManualClock):
    """A clock that is set: its time of day jumps, its intervals do not."""

    def set_by(self, seconds: float) -> None:
        self._start = datetime.fromtimestamp(self._start.timestamp() + seconds, UTC)


@pytest.mark.parametrize(("by_h", "is_open"), [(3, True), (-9, True), (12, False)])
async def test_a_clock_that_is_set_is_noticed_within_a_minute(by_h: int, is_open: bool) -> None:
    clock = SetClock(datetime(2026, 6, 8, 18, 30, tzinfo=UTC))
    said, made = Told(clock), CallHours(clock)
    made.on_change(said.note)
    running = asyncio.create_task(made.run())
    made.use(policy(hours(480, 1080), hours(1260, 1320)))
    await clock.advance(1)
    clock.set_by(by_h * 3600)
    await clock.advance(60)
    assert said.rules[-1][1] is is_open
    running.cancel()
