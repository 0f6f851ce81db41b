"""The agent's side of its warden: what it makes of the warden's words, however close they follow each other."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lepton.errors import Unavailable
from services.agent.launcher import Exit
from services.agent.process import Process
from services.agent.processes import CannotRun, Warden


class Scripted(Warden):
    """A warden that is only spoken for."""

    def __init__(self) -> None:
        super().__init__(os.environ)
        self.orders: list[Mapping[str, Any]] = []
        self.ordered = asyncio.Event()

    async def _open(self) -> None:
        pass

    def _order(self, order: Mapping[str, Any], files: Sequence[int] = ()) -> None:
        self.orders.append(order)
        self.ordered.set()

    async def begin(self, name: str) -> "asyncio.Task[Process]":
        """Asks it to start something, and hears nothing yet."""
        starting = asyncio.create_task(self.start(name, ["true"], environment={}, folder=Path("/")))
        await self.ordered.wait()
        return starting

    def hear(self, *said: Mapping[str, Any]) -> None:
        """All of it at once."""
        for each in said:
            self._hear(each)


async def test_a_process_may_have_ended_before_anybody_hears_that_it_has_begun() -> None:
    warden = Scripted()
    starting = await warden.begin("p")
    warden.hear({"started": "p", "pid": 7}, {"exit": "p", "status": 3 << 8})
    process = await starting
    assert (process.pid, await process.exited) == (7, Exit(code=3))
    process.kill()  # too late is no error
    assert len(warden.orders) == 1
    process.close()


async def test_what_cannot_run_leaves_nothing_behind() -> None:
    warden = Scripted()
    starting = await warden.begin("p")
    warden.hear({"failed": "p", "why": "cannot run it"})
    with pytest.raises(CannotRun, match="cannot run it"):
        await starting
    assert not warden._exits
    assert not warden._started


async def test_a_start_that_nobody_waits_for_any_more_is_killed_once_it_has_begun() -> None:
    warden = Scripted()
    starting = await warden.begin("p")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert len(warden.orders) == 1
    warden.hear({"started": "p", "pid": 7})
    await asyncio.sleep(0)
    assert warden.orders[1] == {"kill": "p", "signal": 9}
    warden.hear({"exit": "p", "status": 9})
    assert not warden._exits
    assert not warden._started


async def test_a_process_has_no_file_of_the_wardens() -> None:
    async with Warden(os.environ) as warden:
        process = await warden.start(
            "p", ["ls", "/proc/self/fd"], environment={"PATH": os.environ["PATH"]}, folder=Path("/")
        )
        assert (await process.stdout.read()).split() == [b"0", b"1", b"2", b"3", b"4"]  # 4 is the folder that it lists
        process.close()


async def test_what_the_agent_hears_of_a_dead_warden_is_that_all_is_killed() -> None:
    async with Warden(os.environ) as warden:
        process = await warden.start("p", ["sleep", "1000"], environment={"PATH": os.environ["PATH"]}, folder=Path("/"))
        assert warden._process is not None
        warden._process.kill()
        assert await process.exited == Exit(signal=9)
        process.close()
        again = await warden.start("q", ["true"], environment={"PATH": os.environ["PATH"]}, folder=Path("/"))
        assert await again.exited == Exit(code=0)
        again.close()
    with pytest.raises(Unavailable):
        warden._order({"kill": "q", "signal": 9})
