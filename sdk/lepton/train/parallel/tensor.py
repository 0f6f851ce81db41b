"""Tensor parallelism: cuts layers over the ranks of a mesh, the model's code untouched.

Between a layer that is cut by its outputs and the one that takes them, activations are DTensors: whatever the model
does with them there (reshaping to heads, attention, masks) means what it means for the whole tensor. Weights that are
not cut stay plain tensors, the same on every rank.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.experimental import implicit_replication
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.parallel.style import ParallelStyle
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lepton.errors import FailedPrecondition
from lepton.train.parallel.layers import Unit


def cut(model: nn.Module, mesh: DeviceMesh, units: Iterable[Unit]) -> None:
    """Cuts the layers in place, each rank keeping its part; weights that several layers share stay shared."""
    ways = {name: way for unit in units for name, way in unit.items()}
    shared = _shared(model)
    parallelize_module(model, mesh, {name: _style(way) for name, way in ways.items()})
    for names in shared:
        _share_again(model, names)
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if own and not any(isinstance(parameter, DTensor) for parameter in own.values()):
            module.forward = _meeting(module, mesh)
    torch.backends.mha.set_fastpath_enabled(False)  # it takes the weights for plain tensors


@contextmanager
def mixing(device: torch.device) -> Iterator[None]:
    """The context of passes over a model that was cut: plain tensors, such as masks, count as the same on all ranks."""
    with ExitStack() as stack:
        stack.enter_context(implicit_replication())
        if device.type == "cpu":  # torch 2.13 cannot divide the CPU's own fused attention
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _style(way: str) -> ParallelStyle:
    if way == "column":
        return ColwiseParallel(use_local_output=False)
    if way == "gathered":
        return ColwiseParallel(output_layouts=Replicate())
    return RowwiseParallel(input_layouts=Replicate())  # also where what comes in is cut already


def _meeting(module: nn.Module, mesh: DeviceMesh) -> Callable[..., Any]:
    """The module's forward pass, its whole weights made to meet cut activations, and their gradients made whole."""
    original = module.forward
    is_inside = False

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal is_inside
        if is_inside or not any(isinstance(value, DTensor) for value in (*args, *kwargs.values())):
            return original(*args, **kwargs)
        weights: dict[str, Tensor] = {
            name: DTensor.from_local(parameter, mesh, [Replicate()], run_check=False)
            for name, parameter in module.named_parameters()
            if not isinstance(parameter, DTensor)
        }
        is_inside = True
        try:
            return functional_call(module, weights, args, kwargs)
        finally:
            is_inside = False

    return forward


def _shared(model: nn.Module) -> list[list[str]]:
    by_weight: dict[Tensor, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_weight.setdefault(parameter, []).append(name)
    return [names for names in by_weight.values() if len(names) > 1]


def _share_again(model: nn.Module, names: list[str]) -> None:
    first, *others = (model.get_parameter(name) for name in names)
    if len({_placements(parameter) for parameter in (first, *others)}) > 1:
        problem = f"{' and '.join(names)} share their weights and would be cut differently; declare a tensor_plan"
        raise FailedPrecondition("MODEL_NOT_DIVISIBLE", axis="tensor", problem=problem)
    for name in names[1:]:
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, first)


def _placements(parameter: nn.Parameter) -> object:
    return tuple(parameter.placements) if isinstance(parameter, DTensor) else None
