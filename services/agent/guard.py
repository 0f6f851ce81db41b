"""Owns the tie between a program with all its descendants and the process that started it.

`python -I -S guard.py PARENT COMMAND...`, started as the leader of its own session, runs COMMAND and ends with its exit
code; SIGTERM is passed on. When PARENT ends, in whatever way, the guard kills its whole process group. The kernel's
parent-death signal alone is not enough: it reaches a direct child, and a Triton stub whose server was killed while it
held a lock in shared memory waits for that lock for ever.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PARENT_ENDED = signal.SIGUSR1
_HEARD = {signal.SIGCHLD, signal.SIGTERM, _PARENT_ENDED}


def tie(parent: int, at_its_end: signal.Signals) -> None:
    """From now on this process gets the signal when `parent`, its direct parent, ends; an error if it already has."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, at_its_end, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise ProcessLookupError(f"the parent {parent} has already ended")


def run(parent: int, command: list[str]) -> int:
    """Runs the command to its end and returns its exit code, 128 + the signal when a signal ended it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    tie(parent, _PARENT_ENDED)
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        tie(guard, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execv(command[0], command)
    while True:
        heard = signal.sigwait(_HEARD)
        if heard == _PARENT_ENDED:
            os.killpg(0, signal.SIGKILL)
        elif heard == signal.SIGTERM:
            os.kill(child, signal.SIGTERM)
        else:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), sys.argv[2:]))
