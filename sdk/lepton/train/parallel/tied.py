"""Weights that several pipeline stages hold, such as an embedding that also scores the words: they stay equal."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
import torch.distributed as dist
from torch import nn

from lepton.train.parallel import gradients
from lepton.train.parallel.mesh import Place


class Tied:
    """Sums the gradients of each such weight over the stages that hold it."""

    def __init__(self, held: Sequence[tuple[nn.Parameter, dist.ProcessGroup]], elsewhere: frozenset[str]) -> None:
        self._held = held
        self.elsewhere = elsewhere  # the names here of weights that an earlier stage holds too

    @classmethod
    def between(
        cls,
        shared: Mapping[str, tuple[str, ...]],
        names: Sequence[frozenset[str]],
        mine: Mapping[str, nn.Parameter],
        place: Place,
    ) -> Self:
        """`shared`: first name -> all names; `names`: each stage's. Collective: torch makes groups on all ranks."""
        held: list[tuple[nn.Parameter, dist.ProcessGroup]] = []
        elsewhere: set[str] = set()
        assert place.mesh is not None
        ranks = place.mesh.mesh  # pipeline x data x tensor
        for aliases in shared.values():
            holders = [number for number, stage in enumerate(names) if stage.intersection(aliases)]
            here = [name for name in aliases if name in mine]
            for column in ranks[holders].reshape(len(holders), -1).T.tolist():
                group = dist.new_group(column)
                if place.rank in column:
                    held.append((mine[here[0]], group))
                    if place.pipeline_rank != holders[0]:
                        elsewhere.update(here)
        return cls(held, frozenset(elsewhere))

    def sum(self) -> None:
        """Sums them after a backward pass."""
        for parameter, group in self._held:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(gradients.local(parameter.grad), group=group)
