"""Waiting on a clock."""

import asyncio

import pytest

from chassis.clock import SystemClock, wait_for_event
from tests.harness.clock import ManualClock


async def test_an_event_is_waited_for_until_it_is_set_or_the_time_is_over() -> None:
    clock, event = ManualClock(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        early, late = (tasks.create_task(wait_for_event(event, timeout_s, clock)) for timeout_s in (5, 10))
        await clock.advance(5)
        assert early.done()
        assert not late.done()
        event.set()
    assert (early.result(), late.result()) == (False, True)
    assert clock.monotonic() == 5


async def test_sleepers_wake_in_order_each_at_its_own_time() -> None:
    clock, woken = ManualClock(), list[float]()

    async def sleeper(delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append(clock.monotonic())

    async with asyncio.TaskGroup() as tasks:
        for delay_s in (3, 1, 2, 1):
            tasks.create_task(sleeper(delay_s))
        await clock.advance(3)
    assert woken == [1, 1, 2, 3]


async def test_the_system_clock_tells_time_in_utc() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(-1)
    assert clock.monotonic() >= before
    offset = clock.now().utcoffset()
    assert offset is not None
    assert offset.total_seconds() == pytest.approx(0)
