"""Replicas that each keep a share of the weights: torch's FSDP2 (`fully_shard`), block by block."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from lepton.train.parallel.blocks import blocks
from lepton.train.parallel.precision import Precision


def shard(model: nn.Module, mesh: DeviceMesh, precision: Precision) -> None:
    """Shards the weights in place; those of a block are gathered while it passes, the rest while the model does.

    Of reduced precision weights travel in 16 bits and gradients in 32; autocast takes care of what is computed in what.
    """
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if precision.is_reduced:
        policy = MixedPrecisionPolicy(
            param_dtype=precision.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for block in blocks(model).values():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


class Sharded:
    """Replicas of a model that `shard` has sharded."""

    def __init__(self, model: nn.Module, *, data_size: int) -> None:
        self._model, self.averaged_over = model, data_size

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
        cast(FSDPModule, self._model).set_requires_gradient_sync(is_last)
        return nullcontext()

    def finish(self, parameters: Iterable[nn.Parameter]) -> None:
        """See Replicas."""
