"""The watchdog on a process of the test's own: who is killed, and who is not."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from services.agent.output import Tail
from services.agent.watchdog import Watchdog, catches

pytestmark = pytest.mark.integration

SLEEPER = "import time; time.sleep(600)"


@dataclass
class Sleeping:
    """A process that does nothing, and never will."""

    process: "subprocess.Popen[bytes]"
    is_killed: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.is_killed = True


@pytest.fixture
def sleeping() -> Iterator[Sleeping]:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER])
    yield Sleeping(process)
    process.kill()
    process.wait()


async def watched(dog: Watchdog, seconds: float = 60.0) -> bool:
    """Whether the watchdog comes to an end."""
    try:
        async with asyncio.timeout(seconds):
            await dog.watch()
    except TimeoutError:
        return False
    return True


async def test_one_that_makes_no_step_is_killed_after_its_time(sleeping: Sleeping) -> None:
    dog = Watchdog(sleeping, Tail(), timeout_s=0.2)
    dog.progress.stepped(5, dog.now_s)
    assert await watched(dog)
    assert sleeping.is_killed
    assert dog.stall is not None
    assert (dog.stall.step, dog.stall.waited, dog.stall.where) == (5, False, "it does not say where it stands")


async def test_one_that_is_stopped_by_a_signal_is_told_as_such(sleeping: Sleeping) -> None:
    os.kill(sleeping.pid, signal.SIGSTOP)
    dog = Watchdog(sleeping, Tail(), timeout_s=0.2)
    dog.progress.stepped(5, dog.now_s)
    assert await watched(dog)
    assert dog.stall is not None
    assert dog.stall.where == "its process is stopped by a signal"


async def test_one_that_has_not_begun_or_is_held_up_or_rests_is_left_alone(sleeping: Sleeping) -> None:
    begun = Watchdog(sleeping, Tail(), timeout_s=0.1)
    assert not await watched(begun, 0.5)
    held = Watchdog(sleeping, Tail(), timeout_s=0.1, is_held_up=lambda: True)
    held.progress.stepped(1, held.now_s)
    assert not await watched(held, 0.5)
    resting = Watchdog(sleeping, Tail(), timeout_s=0.1)
    resting.progress.stepped(1, resting.now_s)
    resting.progress.rests()
    assert not await watched(resting, 0.5)
    assert not sleeping.is_killed


def test_only_a_process_that_catches_the_signal_is_asked_for_its_stack(sleeping: Sleeping) -> None:
    assert not catches(sleeping.pid, signal.SIGUSR2)
    assert not catches(1 << 30, signal.SIGUSR2)
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        assert catches(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
