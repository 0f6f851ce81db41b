"""Conditions where they are enforced: hours of places, attributes of requests, and streams whose window ends."""

import asyncio
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from bench.echo import Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis.access import Binding, PolicyReplica
from chassis.conditions import Attributes, Condition, Window, condition_of
from chassis.method import Rule
from chassis.request_attributes import attributes_reader
from lepton.errors import NotFound, PermissionDenied
from lepton.policy.v1 import condition_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as scheduler
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1 import trainer_service_pb2 as trainer
from lepton.trainer.v1.job_pb2 import Job
from tests.harness.clock import ManualClock
from tests.harness.mesh import DEFAULT_BINDINGS, serving
from tests.harness.seeds import some_seed

WEEKDAYS = frozenset({1, 2, 3, 4, 5})
DAY = 24 * 60


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        (Window(days=WEEKDAYS, start=480, end=1080, zone="UTC"), "2026-06-08T08:00", "2026-06-08T18:00"),
        (Window(days=WEEKDAYS, start=480, end=1080, zone="UTC"), "2026-06-12T17:59", "2026-06-13T12:00"),
        # Over midnight: a window belongs to the day on which it begins.
        (Window(days=frozenset({5}), start=1320, end=360, zone="UTC"), "2026-06-13T05:59", "2026-06-12T05:59"),
        (Window(days=frozenset({7}), start=1320, end=360, zone="UTC"), "2026-06-15T01:00", "2026-06-14T01:00"),
        (Window(start=0, end=DAY, zone="UTC", days=frozenset({1})), "2026-06-08T23:59", "2026-06-09T00:00"),
        (Window(start=480, end=480, zone="UTC", days=frozenset({1})), "2026-06-09T07:59", "2026-06-09T08:00"),
        # The clock of the place, not its distance from UTC: Berlin is an hour earlier in summer, by UTC.
        (Window(start=480, end=1080, zone="Europe/Berlin"), "2026-06-08T06:00", "2026-06-08T16:00"),
        (Window(start=480, end=1080, zone="Europe/Berlin"), "2026-01-12T16:59", "2026-01-12T06:59"),
        # The hour that there is twice counts twice, the one that there is not never.
        (Window(start=120, end=180, zone="Europe/Berlin"), "2026-10-25T01:30", "2026-10-25T02:00"),
        (Window(start=120, end=180, zone="Europe/Berlin"), "2026-10-25T00:30", "2026-03-29T01:00"),
        (Window(start=480, end=1080, zone="Asia/Kathmandu"), "2026-06-08T02:15", "2026-06-08T02:14"),
    ],
    ids=str,
)
def test_hours(window: Window, inside: str, outside: str) -> None:
    assert window.holds(_minute(inside))
    assert not window.holds(_minute(outside))


def test_a_zone_that_is_not_known_is_never_open() -> None:
    assert not any(
        Window(start=0, end=DAY, zone="Mars/Olympus").holds(_minute("2026-06-08T12:00") + at) for at in range(9)
    )


@pytest.mark.parametrize(
    ("window", "now", "then"),
    [
        (Window(days=WEEKDAYS, start=480, end=1080, zone="UTC"), "2026-06-08T07:59", "2026-06-08T08:00"),
        (Window(days=WEEKDAYS, start=480, end=1080, zone="UTC"), "2026-06-12T17:59", "2026-06-12T18:00"),
        (Window(days=WEEKDAYS, start=480, end=1080, zone="UTC"), "2026-06-12T18:00", "2026-06-15T08:00"),
        # Over midnight nothing changes; a week on it is asked again.
        (Window(days=frozenset({5}), start=1320, end=360, zone="UTC"), "2026-06-12T22:00", "2026-06-13T06:00"),
        (Window(start=0, end=DAY, zone="UTC"), "2026-06-12T22:00", "2026-06-19T22:00"),
        (Window(start=0, end=60, zone="Mars/Olympus"), "2026-06-12T22:00", "2026-06-19T22:00"),
        # Clocks are set back: it opens, ends and opens in the hour that there is twice.
        (Window(start=150, end=180, zone="Europe/Berlin"), "2026-10-25T00:00", "2026-10-25T00:30"),
        (Window(start=150, end=180, zone="Europe/Berlin"), "2026-10-25T00:30", "2026-10-25T01:00"),
        (Window(start=150, end=180, zone="Europe/Berlin"), "2026-10-25T01:00", "2026-10-25T01:30"),
        # Clocks are set forth, into it and past it.
        (Window(start=150, end=240, zone="Europe/Berlin"), "2026-03-29T00:00", "2026-03-29T01:00"),
        (Window(start=90, end=150, zone="Europe/Berlin"), "2026-03-29T00:30", "2026-03-29T01:00"),
        (Window(start=130, end=170, zone="Europe/Berlin"), "2026-03-29T00:30", "2026-03-30T00:10"),
    ],
    ids=str,
)
def test_the_next_change_of_hours(window: Window, now: str, then: str) -> None:
    assert window.next_change(_minute(now)) == _minute(then)


def test_the_next_change_is_the_one_that_a_look_at_every_minute_finds() -> None:
    """Over days on which clocks are set, in zones that do it by an hour, by half of one, and at midnight."""
    random = Random(some_seed())
    zones = {
        "Europe/Berlin": ("2026-03-27T00:00", "2026-10-23T00:00"),
        "Australia/Lord_Howe": ("2026-04-03T00:00", "2026-10-02T00:00"),
        "America/Santiago": ("2026-04-03T00:00", "2026-09-04T00:00"),
        "Africa/Casablanca": ("2026-02-13T00:00", "2026-03-20T00:00"),
        "Asia/Kathmandu": ("2026-06-08T00:00",),
    }
    for _ in range(60):
        zone = random.choice(sorted(zones))
        begin = _minute(random.choice(zones[zone]))
        days = frozenset(random.sample(range(1, 8), random.randint(1, 7)))
        window = Window(days=days, start=random.randrange(DAY), end=random.randrange(1, DAY + 1), zone=zone)
        held = [window.holds(begin + at) for at in range(4 * DAY)]
        for at in random.sample(range(3 * DAY), 20):
            found = window.next_change(begin + at) - begin
            until = min(found, 4 * DAY)
            assert held[at:until] == [held[at]] * (until - at), (window, begin + at)
            if found < 4 * DAY:
                assert held[found] is not held[at], (window, begin + at)


def test_an_empty_condition_is_none() -> None:
    assert condition_of(condition_pb2.Condition()) is None
    assert condition_of(condition_pb2.Condition(max_priority=0)) == Condition(max_priority=0)


def test_what_is_not_met_is_said_and_no_more_of_the_request_than_fits() -> None:
    condition = Condition(pools=frozenset({"pools/b", "pools/a"}), max_priority=3)
    assert condition.unmet(Attributes(pools=("pools/c",)), 0) == "pools/c is none of pools/a, pools/b"
    assert condition.unmet(Attributes(pools=()), 0) == "it names no pool; name one of pools/a, pools/b"
    assert condition.unmet(Attributes(priority=4), 0) == "priority 4 is above 3"
    assert len(condition.unmet(Attributes(pools=("x" * 10_000,)), 0)) < 200
    assert condition.unmet(Attributes(), 0) == ""


def test_attributes_are_read_where_the_rule_says() -> None:
    job = trainer.CreateJobRequest(job=Job(pools=["pools/b", "pools/a"], priority=7))
    read = attributes_reader(Rule(pools="job.pools", priority="job.priority"), job.DESCRIPTOR)
    assert read is not None
    assert read(job) == Attributes(pools=("pools/a", "pools/b"), priority=7)
    assert read(trainer.CreateJobRequest()) == Attributes(pools=(), priority=0)
    assert attributes_reader(Rule(permission="jobs.get"), job.DESCRIPTOR) is None
    with pytest.raises(ValueError, match="job.pool, which"):
        attributes_reader(Rule(pools="job.pool"), job.DESCRIPTOR)


def test_of_many_items_all_pools_count_and_the_highest_priority() -> None:
    def item(*pools: str, priority: int = 0) -> scheduler.CreateWorkloadRequest:
        return scheduler.CreateWorkloadRequest(workload=Workload(pools=pools, priority=priority))

    many = scheduler.BatchCreateWorkloadsRequest
    read = attributes_reader(
        Rule(pools="requests.workload.pools", priority="requests.workload.priority"), many.DESCRIPTOR
    )
    assert read is not None
    assert read(many(requests=[item("pools/a", priority=-5), item("pools/b", priority=3)])) == Attributes(
        pools=("pools/a", "pools/b"), priority=3
    )
    assert read(many(requests=[item("pools/a"), item()])).pools == ()  # one asks for any
    assert read(many()) == Attributes(pools=(), priority=0)


class Endless(Echo):
    """Sends one message, then waits for ever."""

    async def Watch(self, request: Any, context: Any) -> Any:
        yield request
        await asyncio.Event().wait()


OFFICE = Window(days=WEEKDAYS, start=480, end=1080, zone="Europe/Berlin")
MESSAGE = EchoMessage(name="projects/acme/jobs/one", text="hello")


async def test_a_stream_ends_with_its_window_and_others_go_on() -> None:
    clock = ManualClock(datetime(2026, 6, 8, 15, 58, 30, tzinfo=UTC))  # 17:58:30 in Berlin, a Monday
    access = PolicyReplica(clock)
    by_day = Binding(
        principal="users/dora", role="roles/developer", scope="projects/acme", condition=Condition(windows=(OFFICE,))
    )
    async with serving((add_echo_to_server, Endless()), access=access, bindings=(*DEFAULT_BINDINGS, by_day)) as mesh:
        watching = asyncio.create_task(access.end_windows())
        signer_now = int(clock.now().timestamp())

        def token(who: str) -> str:
            return mesh.signer.token(who, iat=signer_now, nbf=signer_now, exp=signer_now + 300)

        async with mesh.client(token=token("users/dora")) as dora, mesh.client(token=token("users/alice")) as alice:
            windowed, free = EchoStub(dora).Watch(MESSAGE), EchoStub(alice).Watch(MESSAGE)
            for call in (windowed, free):
                assert (await call.read()).text == "hello"
            await clock.advance(30)  # 17:59: the watch looks, and nothing ends
            assert not windowed.done()
            await clock.advance(59)
            assert (await EchoStub(dora).Echo(MESSAGE)).text == "hello"
            await clock.advance(1)  # 18:00
            with pytest.raises(PermissionDenied) as caught:
                await windowed.read()
            assert caught.value.reason == "CONDITION_NOT_MET"
            assert caught.value.metadata["unmet"] == "it is not within Mon-Fri 08:00-18:00 Europe/Berlin"
            assert not free.done()
            with pytest.raises(PermissionDenied, match="CONDITION_NOT_MET"):
                await EchoStub(dora).Echo(MESSAGE)
            assert (await EchoStub(alice).Echo(MESSAGE)).text == "hello"
            free.cancel()
        watching.cancel()


async def test_without_the_watch_a_stream_outlives_its_window() -> None:
    """The negative control."""
    clock = ManualClock(datetime(2026, 6, 8, 15, 58, 30, tzinfo=UTC))
    access = PolicyReplica(clock)
    by_day = Binding(
        principal="users/dora", role="roles/developer", scope="projects/acme", condition=Condition(windows=(OFFICE,))
    )
    async with serving((add_echo_to_server, Endless()), access=access, bindings=(by_day,)) as mesh:
        now = int(clock.now().timestamp())
        async with mesh.client(token=mesh.signer.token("users/dora", iat=now, nbf=now, exp=now + 300)) as dora:
            call = EchoStub(dora).Watch(MESSAGE)
            assert (await call.read()).text == "hello"
            await clock.advance(120)
            with pytest.raises(PermissionDenied):
                await EchoStub(dora).Echo(MESSAGE)
            assert not call.done()
            call.cancel()


async def test_who_has_no_role_is_told_nothing_of_conditions() -> None:
    clock = ManualClock(datetime(2026, 6, 8, 20, 0, tzinfo=UTC))
    by_day = Binding(
        principal="users/dora", role="roles/developer", scope="projects/acme", condition=Condition(windows=(OFFICE,))
    )
    async with serving((add_echo_to_server, Echo()), access=PolicyReplica(clock), bindings=(by_day,)) as mesh:
        now = int(clock.now().timestamp())
        async with mesh.client(token=mesh.signer.token("users/eve", iat=now, nbf=now, exp=now + 300)) as eve:
            with pytest.raises(NotFound):
                await EchoStub(eve).Echo(MESSAGE)


def _minute(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) // 60
