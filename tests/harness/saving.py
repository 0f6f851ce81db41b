"""Gangs of gloo ranks forked from a process that has torch imported already, to save and load checkpoints in."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, Final

import torch.distributed as dist

PATIENCE_S: Final = 120.0
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch.distributed.tensor", "lepton.train.checkpoints", __name__])


class Ranks:
    """Ranks that run a function each; `function(rank, world_size, *arguments)` at a module's top."""

    def __init__(self, world_size: int, function: Callable[..., Any], *arguments: Any) -> None:
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.processes: list[ForkServerProcess] = []
        self._ends: list[Connection] = []
        for rank in range(world_size):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(
                target=_run, args=(theirs, self._store.port, rank, world_size, function, arguments), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)
            self._ends.append(ours)

    def results(self) -> list[Any]:
        """What each rank's function returned; AssertionError with its traceback when one has failed."""
        found = []
        for rank, end in enumerate(self._ends):
            assert end.poll(PATIENCE_S), f"rank {rank} says nothing"
            is_well, value = end.recv()
            assert is_well, f"rank {rank}: {value}"
            found.append(value)
        return found

    def told(self, rank: int) -> Any:
        """The next thing that a rank has sent by `tell`."""
        assert self._ends[rank].poll(PATIENCE_S), f"rank {rank} says nothing"
        is_well, value = self._ends[rank].recv()
        assert is_well, value
        return value

    def end(self) -> None:
        """Kills what still runs."""
        for process in self.processes:
            process.kill()
            process.join()


_line: Connection


def tell(value: Any) -> None:
    """Within a rank: sends a value to the test."""
    _line.send((True, value))


@contextmanager
def ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """A gang for as long as the test looks at it."""
    gang = Ranks(world_size, function, *arguments)
    try:
        yield gang
    finally:
        gang.end()


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What each rank's function returned."""
    with ranks(world_size, function, *arguments) as gang:
        return gang.results()  # type: ignore[no-any-return]


def _run(
    line: Connection, port: int, rank: int, world_size: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    global _line
    _line = line
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
        result = function(rank, world_size, *arguments)
        dist.barrier()
        line.send((True, result))
    except BaseException:
        line.send((False, traceback.format_exc()))
    line.close()
    os._exit(0)
