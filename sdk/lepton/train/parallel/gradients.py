"""Gradients of a model that may be cut over ranks: their norm, cutting it, and summing them over a group."""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Replicate

_BUCKET_BYTES = 25 << 20  # as DistributedDataParallel's


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def settle_placements(parameters: Iterable[nn.Parameter]) -> None:
    """Gives every gradient the form of its parameter: what is still a sum over ranks is summed."""
    for parameter in parameters:
        gradient = parameter.grad
        if not isinstance(gradient, DTensor):
            continue
        if not isinstance(parameter, DTensor):
            parameter.grad = gradient.full_tensor()
        elif gradient.placements != parameter.placements:
            parameter.grad = gradient.redistribute(placements=parameter.placements)


def sum_over(group: dist.ProcessGroup, parameters: Iterable[nn.Parameter]) -> None:
    """Sums gradients over the ranks of a group, a bucket at a time; each rank must have the same parameters.

    Where only some ranks have a gradient the others' counts as 0; where none has, there is none afterwards.
    """
    everything = list(parameters)
    if not everything:
        return
    has = torch.tensor([float(each.grad is not None) for each in everything], device=local(everything[0]).device)
    dist.all_reduce(has, op=dist.ReduceOp.MAX, group=group)
    used = [parameter for parameter, is_used in zip(everything, has.tolist(), strict=True) if is_used]
    for bucket in _buckets(used):
        parts = [local(_gradient(parameter)) for parameter in bucket]
        flat = torch.cat([part.reshape(-1) for part in parts])
        dist.all_reduce(flat, group=group)
        for part, total in zip(parts, torch.split(flat, [part.numel() for part in parts]), strict=True):
            part.copy_(total.view_as(part))


def norm(
    parameters: Iterable[nn.Parameter], *, pipeline: dist.ProcessGroup | None = None, device: torch.device
) -> Tensor:
    """The Euclidean norm of the whole model's gradient, the same on all ranks, whatever they hold of it."""
    cut: dict[tuple[DeviceMesh, tuple[int, ...]] | None, list[Tensor]] = {None: []}
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        key = None
        if isinstance(gradient, DTensor):
            dimensions = tuple(i for i, place in enumerate(gradient.placements) if not isinstance(place, Replicate))
            key = (gradient.device_mesh, dimensions) if dimensions else None
        cut.setdefault(key, []).append(local(gradient))
    total = torch.zeros((), device=device)
    for key, gradients in cut.items():
        part = _square(gradients, device)
        for dimension in key[1] if key else ():
            assert key is not None
            dist.all_reduce(part, group=key[0].get_group(dimension))
        total += part
    if pipeline is not None:
        dist.all_reduce(total, group=pipeline)
    return total.sqrt()


def scale(parameters: Iterable[nn.Parameter], factor: float | Tensor) -> None:
    """Multiplies every gradient in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            local(parameter.grad).mul_(factor)


def _square(gradients: Sequence[Tensor], device: torch.device) -> Tensor:
    if not gradients:
        return torch.zeros((), device=device)
    return torch.stack([gradient.float().square().sum() for gradient in gradients]).sum()


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        nbytes = local(parameter).nbytes
        if bucket and (size + nbytes > _BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += nbytes
    if bucket:
        yield bucket
