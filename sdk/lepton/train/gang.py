"""The ranks of one run together: joining through the store that the agent announces, agreeing, and leaving."""

import os
import threading
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.rendezvous import rendezvous

from lepton.errors import FailedPrecondition, Unavailable
from lepton.train.environment import RankEnvironment
from lepton.train.plan import Plan

_JOIN_TIMEOUT: Final = timedelta(seconds=60)
_COLLECTIVE_TIMEOUT: Final = timedelta(minutes=30)  # one rank may package or store while the others wait
_LEAVE_TIMEOUT: Final = timedelta(seconds=180)  # rank 0 may still wait for its last commit
_PREFLIGHT_S: Final = 60.0
_MET: Final = "lepton/met/"


class Gang:
    """The process group of a run, also of one rank; made once per process."""

    def __init__(self, environment: RankEnvironment) -> None:
        self.rank, self.world_size = environment.rank, environment.world_size
        devices = torch.cuda.device_count()  # the agent shows a rank its own devices only: often just one
        self.device = torch.device("cuda", environment.local_rank % devices) if devices else torch.device("cpu")
        self._store: Any = None

    @property
    def store(self) -> Any:
        """The store that the ranks have met through. Raises FailedPrecondition before `join`."""
        if self._store is None:
            raise FailedPrecondition("GANG_NOT_JOINED")
        return self._store

    @property
    def is_loose(self) -> bool:
        """Whether the ranks have joined without a process group: they come and go, and have no collectives."""
        return self._store is not None and not dist.is_initialized()

    def join(self, plan: Plan | None = None) -> None:
        """Meets the other ranks at MASTER_ADDR:MASTER_PORT; NCCL with GPUs, gloo without.

        The ranks of a parameter server only connect to the store. Raises Unavailable naming the ranks that do not come
        or, where LEPTON_PREFLIGHT is 1, do not pass a first collective.
        """
        plan = plan or Plan.of_environment()
        plan.data_size(self.world_size)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo needs the host's own name to resolve
        if self.world_size == 1 and "MASTER_ADDR" not in os.environ:
            self._store = HashStore()
        else:
            self._store, *_ = next(rendezvous("env://", timeout=_JOIN_TIMEOUT))
        if plan.data == "parameter_server":
            return
        self._meet()
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=self._store, rank=self.rank, world_size=self.world_size, timeout=_COLLECTIVE_TIMEOUT
        )
        if os.environ.get("LEPTON_PREFLIGHT") == "1":
            self.check()

    def _meet(self) -> None:
        """Waits until every rank has come. Without it the first collective would fail, and not say for whom."""
        self._store.set(f"{_MET}{self.rank}", b"1")
        try:
            self._store.wait([f"{_MET}{rank}" for rank in range(self.world_size)], _JOIN_TIMEOUT)
        except RuntimeError as error:  # torch's DistStoreError
            seconds = f"{_JOIN_TIMEOUT.total_seconds():.0f}"
            raise Unavailable("GANG_INCOMPLETE", ranks=self._absent(_MET), seconds=seconds) from error

    def check(self, timeout_s: float = _PREFLIGHT_S) -> None:
        """A first collective on the ranks' devices, with a known result and a deadline.

        Raises Unavailable naming the ranks that did not pass it. The check before training that NCCL itself lacks: a
        broken link makes it wait for its own timeout, ten minutes later, and name nobody.
        """
        begun, passed = "lepton/preflight/begun/", "lepton/preflight/passed/"
        self._store.set(f"{begun}{self.rank}", b"1")
        problem = ["it did not finish"]

        def add_up() -> None:
            try:
                problem[:] = self._added_up()
            except RuntimeError as error:  # what gloo and NCCL raise
                problem[:] = [str(error).splitlines()[0]]

        # In a thread, for NCCL connects within the call and cannot be told when to give up.
        thread = threading.Thread(target=add_up, name="lepton-preflight", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if not problem:
            self._store.set(f"{passed}{self.rank}", b"1")
            return
        absent = self._absent(begun) or self._absent(passed)
        raise Unavailable("PREFLIGHT_FAILED", ranks=absent, seconds=f"{timeout_s:g}", problem=problem[0])

    def _added_up(self) -> list[str]:
        """What is wrong with a sum over all ranks; nothing if it is right."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # each thread has its own
        total = torch.tensor([float(self.rank + 1)], device=self.device)
        dist.all_reduce(total)
        expected = self.world_size * (self.world_size + 1) / 2
        return [] if float(total) == expected else [f"the ranks' sum is {float(total)}, not {expected}"]

    def _absent(self, prefix: str) -> str:
        return ", ".join(str(rank) for rank in range(self.world_size) if not self._store.check([f"{prefix}{rank}"]))

    def sum(self, values: list[float]) -> list[float]:
        """The element-wise sum over all ranks; every rank must call it at the same point. Loose ranks get their own."""
        if self.world_size == 1 or not dist.is_initialized():
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def leave(self) -> None:
        """Waits until no rank needs another any more; loose ranks do not.

        The process then exits without destroy_process_group: that call aborts now and then ("terminate called without
        an active exception", torch 2.13 with gloo), and the operating system closes the sockets all the same.
        """
        if not dist.is_initialized():
            return
        store = self._store or dist.distributed_c10d._get_default_store()  # noqa: SLF001  # there is no public way to it
        if store.add("lepton/left", 1) == self.world_size:
            store.set("lepton/all-left", "1")
        store.wait(["lepton/all-left"], _LEAVE_TIMEOUT)
