"""Owns one process of a slice and all that it starts: `python -I -S warden.py PARENT COMMAND...`; none outlives PARENT.

SIGTERM is passed on to the command's group. SIGHUP, which also comes when the parent dies, kills all descendants, also
those that made themselves daemons. The warden ends as the command ended.
"""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OWN = {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGINT}


def main(parent: int, command: list[str]) -> None:
    """Run the command to its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _OWN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:
        sys.exit(1)
    child = _start(command)
    status: int | None = None
    while status is None:
        number = signal.sigwait(_OWN)
        if number == signal.SIGTERM:
            _signal_group(child, signal.SIGTERM)
        elif number == signal.SIGHUP:
            _kill_descendants(child)
            status = int(signal.SIGKILL)
        elif number == signal.SIGCHLD:
            status = _reap(child)
    _kill_descendants(child)
    _end_like(status)


def _start(command: list[str]) -> int:
    warden = os.getpid()
    child = os.fork()
    if child:
        return child
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != warden:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OWN)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _reap(child: int) -> int | None:
    """Collect whatever has ended; the wait status of the command once it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                status = ended[1]
    return status


def _kill_descendants(child: int) -> None:
    _signal_group(child, signal.SIGKILL)
    try:
        while True:
            for pid in _children():
                _signal_group(pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)  # what it leaves becomes ours
    except ChildProcessError:
        return


def _children() -> list[int]:
    # Direct children only: killing one makes its own children ours.
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


def _signal_group(pid: int, number: int) -> None:
    # The group of a child that leads none is the warden's own: never that.
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) != os.getpgid(0):
            os.killpg(os.getpgid(pid), number)


def _end_like(status: int) -> None:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
