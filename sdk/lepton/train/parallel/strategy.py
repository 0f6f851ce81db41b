"""What a training loop sees of a strategy, whichever it is."""

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> the sum over the samples


class SavedState(Protocol):
    """A checkpoint, as strategies read it: the interface of lepton.train's Checkpoint."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all tensors: their keys from the top, joined by `/`."""
        ...

    def load_into(self, state: MutableMapping[str, Any]) -> None:
        """Copies into the tensors of `state`, a DTensor getting its shard; raises where one is missing or of another
        shape.
        """
        ...


class Strategy(Protocol):
    """One rank's part of a model in training."""

    model: nn.Module  # what this rank holds
    device: torch.device
    data_rank: int  # the rank's share of each global batch is data_rank of data_size
    data_size: int
    counts: bool  # whether this rank's loss and outputs count in sums over the gang: exactly one rank per sample
    saves: bool  # whether this rank calls session.checkpoint(); all do, except where ranks do not step together
    serves: bool  # whether this rank serves parameters: after `load()` it calls `serve()` and nothing else
    joins_after: int  # steps that others had made from the checkpoint when this rank joined; 0 where all step as one

    def forward_backward(
        self, inputs: Tensor, targets: Tensor, loss: Loss, *, scale: float, parts: int = 1
    ) -> tuple[float, Tensor | None]:
        """Adds gradients of `scale` * (the loss summed over all data ranks); (this rank's summed loss, its outputs).

        `inputs` and `targets` hold this rank's share, samples first, on any device; the share may be empty. Every rank
        of the gang calls it. Outputs (detached) are None where this rank has none. `parts` cuts the share into so many
        passes, to need less memory.
        """

    def step(self, *, learning_rate: float, clip_norm: float = 0.0) -> None:
        """The optimizer's step, the gradient's norm cut to `clip_norm` (0 = not cut); then gradients are zero."""

    def evaluate(self, inputs: Tensor) -> Tensor | None:
        """The model's outputs on the ranks that have them; all ranks call it equally often, with any number of samples.

        The caller sets `model.eval()` before and `model.train()` after it.
        """

    def state(self) -> dict[str, Any]:
        """{"model": {name: tensor}, "optimizer": {"state": {name: {..}}}}; each rank its part, DTensors where cut."""

    def load(self, checkpoint: SavedState) -> None:
        """Takes over a state that any strategy wrote, at any world size; every rank calls it."""

    def full_model_state(self) -> dict[str, Tensor]:
        """The whole model's state on the CPU of rank 0, empty elsewhere; every rank calls it."""

    def serve(self) -> None:
        """Serves parameters until every worker has finished; of ranks that do not serve, at once."""

    def close(self) -> None:
        """Ends this rank's part in good order; a worker tells its servers that it has finished."""
