"""Becomes a program that ends with the process that started it: `python -I -S tied.py PARENT COMMAND...`.

A program of its own, because a process that speaks gRPC must not run code between fork and exec: gRPC's threads come
back to life in the child, find their descriptors closed, and abort it (grpc/grpc#43055).
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties this process to its parent, then becomes the command."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == int(parent):  # else the parent has ended already
        os.execvp(command[0], command)


main()
