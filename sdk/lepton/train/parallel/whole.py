"""The strategy of a model whose layers all pass on each rank: whole (DDP), sharded (FSDP2), cut (tensor parallel)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lepton.train.parallel import gradients, share, state
from lepton.train.parallel.mesh import Place
from lepton.train.parallel.optimizing import Optimizing
from lepton.train.parallel.precision import Precision, plain
from lepton.train.parallel.replicas import Replicas
from lepton.train.parallel.strategy import Loss, SavedState


class WholeModel:
    """Each rank, or each group of tensor-parallel ranks, passes its share of the data through all layers."""

    saves = True
    serves = False
    joins_after = 0

    def __init__(
        self,
        model: nn.Module,
        place: Place,
        replicas: Replicas,
        optimizing: Optimizing,
        precision: Precision,
        *,
        mixing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`mixing`: the context in which cut tensors may meet whole ones."""
        self.model, self.device = model, place.device
        self.data_rank, self.data_size, self.counts = place.data_rank, place.data_size, place.tensor_rank == 0
        self._is_first = place.rank == 0
        self._replicas, self._optimizing, self._precision, self._mixing = replicas, optimizing, precision, mixing

    def forward_backward(
        self, inputs: Tensor, targets: Tensor, loss: Loss, *, scale: float, parts: int = 1
    ) -> tuple[float, Tensor | None]:
        """See Strategy."""
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        self._replicas.prepare(inputs, self._precision)
        total, outputs = torch.zeros((), device=self.device), []
        for number, (x, y) in enumerate(share.parts_of(inputs, targets, parts), start=1):
            with self._replicas.passing(is_last=number == parts), self._mixing():
                summed, output = self._pass(x, y, loss, scale)
            total += summed
            outputs.append(output)
        gradients.settle_placements(self._optimizing.parameters)
        self._replicas.finish(self._optimizing.parameters)
        return float(total), torch.cat(outputs)

    def _pass(self, x: Tensor, y: Tensor, loss: Loss, scale: float) -> tuple[Tensor, Tensor]:
        with self._precision.forward():
            output = plain(self._replicas(x if len(x) else share.stand_in(x)))
        summed = loss(output, y) if len(x) else share.nothing(output)
        # Replicas average over the data ranks; this makes it the sum, however unevenly the samples are divided.
        scaled = self._precision.scaled(summed * (scale * self._replicas.averaged_over))
        scaled.backward()  # type: ignore[no-untyped-call]  # torch's own
        return summed.detach(), output.detach()[: len(x)]

    def step(self, *, learning_rate: float, clip_norm: float = 0.0) -> None:
        """See Strategy."""
        self._optimizing.step(learning_rate=learning_rate, clip_norm=clip_norm)

    def evaluate(self, inputs: Tensor) -> Tensor | None:
        """See Strategy."""
        inputs = inputs.to(self.device)
        with torch.no_grad(), self._mixing(), self._precision.forward():
            output = plain(self._replicas.evaluate(inputs if len(inputs) else share.stand_in(inputs)))
        return output[: len(inputs)]

    def state(self) -> dict[str, Any]:
        """See Strategy."""
        return {"model": state.model_state(self.model), "optimizer": self._optimizing.state()}

    def load(self, checkpoint: SavedState) -> None:
        """See Strategy."""
        state.load_into(self.model, self._optimizing, checkpoint)

    def full_model_state(self) -> dict[str, Tensor]:
        """See Strategy."""
        return state.whole(state.model_state(self.model), keep=self._is_first)

    def serve(self) -> None:
        """See Strategy."""

    def close(self) -> None:
        """See Strategy."""
