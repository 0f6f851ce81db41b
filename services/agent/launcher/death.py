"""Dying with one's parent: the kernel's guarantee that no rank outlives its launcher, nor a launcher its agent."""

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PRCTL: Final = ctypes.CDLL(None, use_errno=True).prctl  # resolved once: a forked child should look nothing up


def die_with(parent: int) -> None:
    """Has this process killed when its parent (`parent`) ends; ends at once if that has happened already.

    The kernel watches the parent's *thread* that made this process: that thread must live as long as the parent does.
    """
    if _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)
