"""A rank that does what its first argument says, through the worker API and torch.distributed."""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from lepton import train


def add() -> None:
    """Sums the ranks' numbers over the gang and reports the sum."""
    gang = train.session().gang
    gang.join()
    total = torch.tensor([float(train.rank())])
    dist.all_reduce(total)
    train.report({"sum": float(total)}, step=1)
    contract = {name: os.environ[name] for name in ("LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE")}
    print(f"rank {train.rank()} of {train.world_size()} {json.dumps(contract)}", flush=True)
    gang.leave()


def fail() -> None:
    """Says something and fails, on rank 1 only; the others wait for ever."""
    if train.rank() != 1:
        time.sleep(600)
    print("about to fail", flush=True)
    raise ValueError("the data is wrong")


def save() -> None:
    """Trains until asked to stop, then saves and leaves."""
    gang = train.session().gang
    gang.join()
    train.session().reporter.state("training")
    step = 0
    while not train.should_stop():
        step += 1
        time.sleep(0.01)
    if train.rank() == 0:
        train.session().reporter.checkpoint("sha256:" + "0" * 64, step=step, metrics={}).wait()
    train.session().reporter.state("stopped")
    gang.leave()
    sys.exit(train.EXIT_STOPPED)


def count() -> None:
    """Reports and prints the numbers from 1 to its second argument, one every 10 ms."""
    for number in range(1, int(sys.argv[2]) + 1):
        train.report({"number": float(number)}, step=number)
        print(f"line {number}", flush=True)
        time.sleep(0.01)


def environ() -> None:
    """Prints its environment, and its specification."""
    print(json.dumps({**os.environ, "spec": Path(os.environ["LEPTON_SPEC"]).read_text()}), flush=True)


def sleep() -> None:
    """Sleeps for ever, deaf to everything."""
    print(f"pid {os.getpid()}", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    {"add": add, "fail": fail, "save": save, "count": count, "environ": environ, "sleep": sleep}[sys.argv[1]]()
