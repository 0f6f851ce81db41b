"""How the data ranks keep their models alike: one alone, DDP's averages, or sums made here."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lepton.train.parallel import gradients, share
from lepton.train.parallel.precision import Precision


class Replicas(Protocol):
    """What the passes over a model need to know of the other data ranks."""

    averaged_over: int  # over how many ranks gradients are averaged; 1 = they are summed

    def prepare(self, inputs: Tensor, precision: Precision) -> None:
        """Called before every step, by all ranks."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """A forward pass whose backward pass reaches all replicas."""

    def evaluate(self, inputs: Tensor) -> Tensor:
        """A forward pass without one."""

    def passing(self, *, is_last: bool) -> AbstractContextManager[object]:
        """The context of one of a step's passes; gradients meet in the last."""

    def finish(self, parameters: Iterable[nn.Parameter]) -> None:
        """Called after a step's last pass."""


class Summed:
    """Replicas whose gradients are summed after the last pass; without a group, a model alone."""

    averaged_over = 1

    def __init__(self, model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
        self._model, self._group = model, group

    def prepare(self, inputs: Tensor, precision: Precision) -> None:
        """See Replicas."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """See Replicas."""
        return torch.as_tensor(self._model(inputs))

    def evaluate(self, inputs: Tensor) -> Tensor:
        """See Replicas."""
        return torch.as_tensor(self._model(inputs))

    def passing(self, *, is_last: bool) -> AbstractContextManager[object]:
        """See Replicas."""
        return nullcontext()

    def finish(self, parameters: Iterable[nn.Parameter]) -> None:
        """See Replicas."""
        if self._group is not None:
            gradients.sum_over(self._group, parameters)


class Averaged:
    """torch's DistributedDataParallel, which averages while the backward pass still runs."""

    def __init__(self, model: nn.Module, *, device: torch.device, data_size: int) -> None:
        self._model, self._device, self.averaged_over = model, device, data_size
        self._parallel: DistributedDataParallel | None = None

    def prepare(self, inputs: Tensor, precision: Precision) -> None:
        """Makes the wrapper at the first step, from a pass with nothing at stake.

        That pass shows which parameters the model uses. A second one settles DDP's buckets: it lays them out anew after
        its first backward pass and sums in another order from then on, so that a resumed run would else differ from the
        uninterrupted one in the last bits.
        """
        if self._parallel is not None:
            return
        x = inputs[:2] if len(inputs) > 1 else share.stand_in(inputs)
        devices = [self._device] if self._device.type == "cuda" else []
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        with torch.random.fork_rng(devices):
            self._backward(self._model, x, precision)
            unused = [p.grad is None for p in self._model.parameters() if p.requires_grad]
            flag = torch.tensor([float(any(unused))], device=self._device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            self._model.zero_grad()
            self._parallel = DistributedDataParallel(
                self._model,
                device_ids=[self._device.index] if self._device.type == "cuda" else None,
                forward_sync_buffers=False,
                find_unused_parameters=bool(flag.item()),
            )
            self._backward(self._parallel, x, precision)
        self._model.zero_grad()
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                buffer.copy_(buffers[name])

    def __call__(self, inputs: Tensor) -> Tensor:
        """See Replicas."""
        assert self._parallel is not None
        return torch.as_tensor(self._parallel(inputs))

    def evaluate(self, inputs: Tensor) -> Tensor:
        """See Replicas."""
        return torch.as_tensor(self._model(inputs))

    def passing(self, *, is_last: bool) -> AbstractContextManager[object]:
        """See Replicas."""
        assert self._parallel is not None
        skipping: AbstractContextManager[object] = self._parallel.no_sync()
        return nullcontext() if is_last else skipping

    def finish(self, parameters: Iterable[nn.Parameter]) -> None:
        """See Replicas."""

    @staticmethod
    def _backward(module: nn.Module, x: Tensor, precision: Precision) -> None:
        with precision.forward():
            output = module(x)
        share.nothing(output).backward()  # type: ignore[no-untyped-call]  # torch's own
