"""A process of the stack: what it runs, how it is known to be ready, how it is started and ended."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_TIED: Final = Path(__file__).with_name("tied.py")
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "LEPTON_HOME")


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A process that the supervisor keeps running."""

    name: str
    argv: tuple[str, ...]
    log: Path
    is_ready: Callable[[], Awaitable[bool]]
    """Asked until it says yes; a refused connection is a no."""
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_s: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    stop_signal: int = signal.SIGTERM


async def start(component: Component) -> asyncio.subprocess.Process:
    """Starts a component's process; it dies with the process that called this."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    component.log.parent.mkdir(parents=True, exist_ok=True)
    with component.log.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_TIED), str(os.getpid())),
            *component.argv,
            env={**passed_on, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **component.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,  # a terminal's Ctrl-C reaches the supervisor alone, which ends its processes in order
        )


async def stop(process: asyncio.subprocess.Process, component: Component) -> None:
    """Ends a process: a notice, then the kill."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(component.stop_signal)
    try:
        await asyncio.wait_for(process.wait(), component.stop_s)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def until_ready(component: Component, process: asyncio.subprocess.Process, deadline_s: float) -> None:
    """Waits until a component answers. Raises StartFailed when it ends first or does not answer in time."""
    try:
        async with asyncio.timeout(deadline_s):
            while not await component.is_ready():
                if process.returncode is not None:
                    raise StartFailed(component, f"ended with code {process.returncode}")
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise StartFailed(component, f"did not answer within {deadline_s:.0f} s") from None


class StartFailed(Exception):
    """A component could not be started; the message holds the end of its log."""

    def __init__(self, component: Component, what: str) -> None:
        tail = component.log.read_text(errors="replace").splitlines()[-15:] if component.log.is_file() else []
        super().__init__("\n  ".join([f"{component.name} {what}. The end of {component.log}:", *tail]))
