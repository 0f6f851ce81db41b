"""Keeps the processes of a stack running: starts them in order, restarts what dies, ends all of them."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from deploy.local.component import Component, StartFailed, start, stop, until_ready

_PR_SET_CHILD_SUBREAPER: Final = 36
_START_DEADLINE_S: Final = 60.0
_SERVICES: Final = frozenset({"scheduler", "trainer", "inference"})
"""They depend on what is left when agents are gone, and not on each other."""
_LONGEST_PAUSE_S: Final = 5.0
_STEADY_S: Final = 30.0
"""After running this long a process has earned a fresh start of its pauses."""

Step = Callable[[], Awaitable[None]]
"""Something to do between two components, for example making a certificate."""

Plan = Sequence[Component | Step | Sequence[Component | Step]]
"""What to start, in order; what stands together starts together, and is done while the components get ready."""


@dataclass(slots=True)
class _Running:
    component: Component
    process: asyncio.subprocess.Process
    restarts: int = 0


class Supervisor:
    """Runs a stack until it is told to stop.

    Its state is written to a file as JSON: `phase` (starting, ready, stopping, failed), `message`, and for every
    component its pid and how often it was restarted.
    """

    def __init__(self, plan: Plan, state_file: Path) -> None:
        self._plan, self._state_file = plan, state_file
        self._running: dict[str, _Running] = {}
        self._phase, self._message = "starting", ""
        self._stopping = asyncio.Event()

    def request_stop(self) -> None:
        """Makes `run` end everything and return."""
        self._stopping.set()

    async def run(self) -> bool:
        """Starts everything, keeps it running until a stop is requested, ends everything. False: it could not start."""
        # Grandchildren whose parent was killed become ours, so that nothing outlives the stack.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        not_ours = {process.pid for process in psutil.Process().children(recursive=True)}
        watchers: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, _collect_orphans)
        try:
            started = await self._start_all(watchers)
            if started:
                self._write("ready")
                await self._stopping.wait()
            return started
        finally:
            self._write("stopping" if self._phase != "failed" else "failed", self._message)
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            await self._stop_all()
            loop.remove_signal_handler(signal.SIGCHLD)
            _reap_strays(not_ours)
            if self._phase != "failed":
                self._state_file.unlink(missing_ok=True)

    async def _start_all(self, watchers: list[asyncio.Task[None]]) -> bool:
        starting = asyncio.ensure_future(self._start_in_order(watchers))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return False
            starting.result()
        except (StartFailed, RuntimeError) as error:
            self._write("failed", str(error))
            return False
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
        return True

    async def _start_in_order(self, watchers: list[asyncio.Task[None]]) -> None:
        for item in self._plan:
            if isinstance(item, Component):
                await self._start_together([item], watchers)
            elif callable(item):
                await item()
            else:
                await self._start_together(item, watchers)

    async def _start_together(self, items: Sequence[Component | Step], watchers: list[asyncio.Task[None]]) -> None:
        components = [item for item in items if isinstance(item, Component)]
        names = ", ".join(component.name for component in components)
        started = []
        for component in components:
            running = _Running(component, await start(component))
            self._running[component.name] = running
            started.append(running)
        self._write("starting", names)
        for item in items:
            if not isinstance(item, Component):
                await item()
        for running in started:
            await until_ready(running.component, running.process, _START_DEADLINE_S)
            watchers.append(asyncio.create_task(self._keep_running(running)))

    async def _keep_running(self, running: _Running) -> None:
        pause_s = 0.1
        while True:
            began = time.monotonic()
            await running.process.wait()
            if time.monotonic() - began > _STEADY_S:
                pause_s = 0.1
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            running.process = await start(running.component)
            running.restarts += 1
            self._write(self._phase, self._message)

    async def _stop_all(self) -> None:
        """Agents first, all at once; then the services they speak to; then what all depend on, last started first."""
        running = list(self._running.values())
        agents = [one for one in running if one.component.name.startswith("agent")]
        await asyncio.gather(*(stop(one.process, one.component) for one in agents))
        services = [one for one in running if one.component.name in _SERVICES]
        await asyncio.gather(*(stop(one.process, one.component) for one in services))
        for one in reversed(running):
            await stop(one.process, one.component)

    def _write(self, phase: str, message: str = "") -> None:
        self._phase, self._message = phase, message
        state = {
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "phase": phase,
            "message": message,
            "components": {
                name: {"pid": one.process.pid, "restarts": one.restarts} for name, one in self._running.items()
            },
        }
        aside = self._state_file.with_suffix(".new")
        aside.write_text(json.dumps(state, indent=1) + "\n")
        aside.replace(self._state_file)


def _collect_orphans() -> None:
    """Waits for the dead that were inherited: they are of a group that they do not lead, and that is not ours."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, ChildProcessError):
            group = os.getpgid(child.pid)
            if child.status() == psutil.STATUS_ZOMBIE and group not in (child.pid, os.getpgid(0)):
                os.waitpid(child.pid, os.WNOHANG)


def _reap_strays(not_ours: set[int]) -> None:
    """Ends what the stack's processes left behind; what was there before the stack is none of its business."""
    strays = [each for each in psutil.Process().children(recursive=True) if each.pid not in not_ours]
    for stray in strays:
        with contextlib.suppress(psutil.NoSuchProcess):
            stray.kill()
    psutil.wait_procs(strays, timeout=3)


async def supervise(supervisor: Supervisor, hold: int | None) -> bool:
    """Runs the supervisor; it stops on SIGTERM or SIGINT, and when whoever holds the other end of `hold` goes away.

    The holder writes a byte to let go: from then on the stack stands on its own.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.request_stop)
    if hold is not None:
        loop.add_reader(hold, _let_go_or_stop, loop, hold, supervisor)
    return await supervisor.run()


def _let_go_or_stop(loop: asyncio.AbstractEventLoop, hold: int, supervisor: Supervisor) -> None:
    loop.remove_reader(hold)
    if os.read(hold, 1) == b"":
        supervisor.request_stop()
    os.close(hold)
