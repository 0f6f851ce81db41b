"""The ranks of one run together: joining through the store that the agent announces, agreeing, and leaving."""

import os
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from lepton.train.environment import RankEnvironment

_JOIN_TIMEOUT: Final = timedelta(seconds=60)
_LEAVE_TIMEOUT: Final = timedelta(seconds=180)  # rank 0 may still wait for its last commit


class Gang:
    """The process group of a run, also of one rank; made once per process."""

    def __init__(self, environment: RankEnvironment) -> None:
        self.rank, self.world_size = environment.rank, environment.world_size
        devices = torch.cuda.device_count()  # the agent shows a rank its own devices only: often just one
        self.device = torch.device("cuda", environment.local_rank % devices) if devices else torch.device("cpu")

    def join(self) -> None:
        """Meets the other ranks at MASTER_ADDR:MASTER_PORT; NCCL with GPUs, gloo without."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo needs the host's own name to resolve
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        if self.world_size == 1 and "MASTER_ADDR" not in os.environ:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend, init_method="env://", timeout=_JOIN_TIMEOUT)

    def sum(self, values: list[float]) -> list[float]:
        """The element-wise sum over all ranks; every rank must call it at the same point."""
        if self.world_size == 1 or not dist.is_initialized():
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def leave(self) -> None:
        """Waits until no rank needs another any more.

        The process then exits without destroy_process_group: that call aborts now and then ("terminate called without
        an active exception", torch 2.13 with gloo), and the operating system closes the sockets all the same.
        """
        if not dist.is_initialized():
            return
        store = dist.distributed_c10d._get_default_store()  # noqa: SLF001  # there is no public way to it
        if store.add("lepton/left", 1) == self.world_size:
            store.set("lepton/all-left", "1")
        store.wait(["lepton/all-left"], _LEAVE_TIMEOUT)
