"""A rank that steps with its gang until it fails in the way that its first argument says; the second names the rank."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from lepton import train

WAY, FAULTY = sys.argv[1], int(sys.argv[2])
AT = int(sys.argv[3]) if len(sys.argv) > 3 else 3


def raise_memory_error() -> None:
    """More than any machine has."""
    bytearray(1 << 60)


def run_out_of_device_memory() -> None:
    """As torch says it on a GPU."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1 GiB is free"
    )


def fill_the_disk() -> None:
    """A file that takes nothing."""
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


def miss_a_file() -> None:
    """A file that is not there."""
    Path("images/17.png").read_bytes()


def stand_still() -> None:
    """In its own code, where no collective is to be seen."""
    time.sleep(600)


def grow() -> None:
    """Until somebody ends it, some tens of megabytes at a time."""
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20) * 16))
        time.sleep(0.01)


WAYS = {
    "memory": raise_memory_error,
    "device": run_out_of_device_memory,
    "disk": fill_the_disk,
    "file": miss_a_file,
    "still": stand_still,
    "grow": grow,
    "user": lambda: json.loads("{no json"),
    "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}


def main() -> None:
    """Steps for ever, or until its step comes."""
    session = train.session()
    session.gang.join()
    if WAY == "absent":  # one that never comes to the check before the first step
        if session.gang.rank == FAULTY:
            stand_still()
        session.gang.check(timeout_s=2.0)
    step = 0
    while True:
        step += 1
        session.gang.sum([1.0])
        session.pace.stepped(step)
        if step == 1:
            session.reporter.state("training")
            print(f"pid {os.getpid()}", flush=True)
        if step == AT and session.gang.rank == FAULTY and WAY in WAYS:
            WAYS[WAY]()
        time.sleep(0.02)


if __name__ == "__main__":
    main()
