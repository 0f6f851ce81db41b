"""A model's state by name: what a rank holds of it, loading it, and bringing the whole together."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lepton.train.parallel.optimizing import Optimizing
from lepton.train.parallel.strategy import SavedState


def model_state(model: nn.Module) -> dict[str, Any]:
    """Parameters and buffers by name, sharing memory with the model."""
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in model.state_dict().items()}


def load_into(model: nn.Module, optimizing: Optimizing, checkpoint: SavedState) -> None:
    """Takes over a saved state in place: weights, and the optimizer's state for the parameters that have one there."""
    state: dict[str, Any] = {"model": {name: v for name, v in model_state(model).items() if isinstance(v, Tensor)}}
    prefix = "optimizer/"
    template = optimizing.template({path[len(prefix) :] for path in checkpoint.paths if path.startswith(prefix)})
    if template:
        state["optimizer"] = template
    checkpoint.load_into(state)
    optimizing.loaded(template)


def whole(state: Mapping[str, Any], *, keep: bool) -> dict[str, Tensor]:
    """The whole tensors of a state whose parts are on several ranks, on the CPU; collective, kept where `keep`."""
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            result[name] = full.detach().to("cpu", copy=True).contiguous()
    return result
