"""Starts, ends and looks at a stack from outside: the client side of the supervisor."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psutil

from deploy.local.home import Home

_START_S: Final = 180.0
_STOP_S: Final = 60.0


class StackError(Exception):
    """The stack could not be started or ended; the message says why and where to look."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Keeps a fresh stack tied to this process: it ends when this process does, until `release` lets it go."""

    descriptor: int

    def release(self) -> None:
        """Lets the stack stand on its own."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.descriptor, b"r")
        os.close(self.descriptor)


def state(home: Home) -> dict[str, Any] | None:
    """What the running supervisor says of itself; None when none runs."""
    try:
        said: dict[str, Any] = json.loads(home.stack_file.read_text())
        process = psutil.Process(said["pid"])
        # The pid may have been given to another process since.
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return said if alive and abs(process.create_time() - said["started"]) < 1.0 else None
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


def start(home: Home, tell: Callable[[str], None]) -> Hold | None:
    """Starts a stack and waits until it is ready; None when one is running already.

    Raises StackError when it cannot be started; then nothing of it is left running.
    """
    home.create()
    running = state(home)
    if running is not None and running["phase"] == "ready":
        return None
    if running is not None:
        raise StackError(f"the stack in {home.root} is {running['phase']}: wait for it, or run `lepton down` first")
    home.stack_file.unlink(missing_ok=True)
    theirs, ours = os.pipe()
    log = home.log("supervisor")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "run", "--hold", str(theirs)],
            env={**os.environ, "LEPTON_HOME": str(home.root)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(theirs,),
            start_new_session=True,
        )
    os.close(theirs)
    try:
        _await_ready(home, process, tell)
    except BaseException:
        os.close(ours)  # the supervisor takes it for our end and ends everything
        process.wait()
        raise
    return Hold(ours)


def _await_ready(home: Home, process: subprocess.Popen[bytes], tell: Callable[[str], None]) -> None:
    deadline = time.monotonic() + _START_S
    told = ""
    while time.monotonic() < deadline:
        said = _read(home)
        if said.get("pid") == process.pid:
            if said["phase"] == "ready":
                return
            if said["phase"] == "failed":
                raise StackError(said["message"])
            if said["message"] and said["message"] != told:
                told = said["message"]
                tell(told)
        if process.poll() is not None:
            raise StackError(f"the supervisor ended with code {process.returncode}: see {home.log('supervisor')}")
        time.sleep(0.05)
    raise StackError(f"the stack was not ready within {_START_S:.0f} s; see {home.root / 'logs'}")


def stop(home: Home) -> bool:
    """Ends the stack and waits until its processes are gone; False when none was running."""
    said = state(home)
    if said is None:
        return False
    supervisor = psutil.Process(said["pid"])
    family = [supervisor, *supervisor.children(recursive=True)]
    supervisor.terminate()
    _, alive = psutil.wait_procs(family, timeout=_STOP_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return True


def _read(home: Home) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(home.stack_file.read_text())
    except FileNotFoundError:
        return {}
    return said
