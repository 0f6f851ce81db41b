"""Retuning and teaching: a module learns to answer as its teacher does, and as the labels say where there are any.

Hinton, Vinyals and Dean: Distilling the Knowledge in a Neural Network, 2015: cross-entropy with the teacher's softened
answers, the larger part, beside that with the labels. Models that give numbers learn the teacher's numbers.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.inference.compress.samples import Part

Progress = Callable[[float], None]
"""Is told how much is done, from 0 to 1."""
_TEMPERATURE: Final = 2.0
_OF_TEACHER: Final = 0.7
_WARM_UP: Final = 0.1
_SCORED_BATCHES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast is learned."""

    epochs: int
    batch_size: int = 64
    learning_rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What is learned from whom: training samples of one input, and the original model."""

    teacher: nn.Module
    part: Part
    heads: tuple[int, ...] = ()
    is_classes: bool = True

    def loss(self, model: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
        """The mean loss of a batch."""
        with torch.no_grad():
            wanted = self.teacher(x)
        given = model(x)
        if not self.is_classes:
            return functional.mse_loss(given, wanted)
        sizes = list(self.heads) if len(self.heads) > 1 else [given.shape[-1]]
        labels = [None] * len(sizes) if y is None else (list(y.unbind(1)) if len(sizes) > 1 else [y])
        pieces = zip(torch.split(given, sizes, -1), torch.split(wanted, sizes, -1), labels, strict=True)
        return torch.stack([_one_way(*piece) for piece in pieces]).mean()

    def batch(self, numbers: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """The samples of those numbers; with a generator pictures are moved a little at random."""
        (x,) = (torch.from_numpy(np.ascontiguousarray(array[numbers.numpy()])) for array in self.part.inputs.values())
        labels = self.part.labels
        y = None if labels is None else torch.from_numpy(np.ascontiguousarray(labels[numbers.numpy()]))
        return (_moved(x, generator) if generator is not None and x.dim() == 4 else x), y

    def losses(self, model: nn.Module, seed: int, batch_size: int = 64) -> Iterator[Tensor]:
        """The loss of a few batches, with its graph: what importance is computed from."""
        order = torch.randperm(len(self.part), generator=torch.Generator().manual_seed(seed))
        for numbers in torch.split(order, batch_size)[:_SCORED_BATCHES]:
            yield self.loss(model, *self.batch(numbers))


def retune(
    model: nn.Module,
    lesson: Lesson,
    schedule: Schedule,
    *,
    after_step: Callable[[], None] = lambda: None,
    progress: Progress = lambda _done: None,
) -> None:
    """Trains the module in place with AdamW under a cosine; `after_step` keeps what must not change. Deterministic."""
    generator = torch.Generator().manual_seed(schedule.seed)
    batches = math.ceil(len(lesson.part) / schedule.batch_size)
    steps = schedule.epochs * batches
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    lesson.teacher.eval()
    model.train()
    for epoch in range(schedule.epochs):
        order = torch.randperm(len(lesson.part), generator=generator)
        for numbers in torch.split(order, schedule.batch_size):
            optimizer.zero_grad(set_to_none=True)
            lesson.loss(model, *lesson.batch(numbers, generator)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            after_step()
        progress((epoch + 1) / schedule.epochs)
    model.eval()


def _one_way(given: Tensor, wanted: Tensor, labels: Tensor | None) -> Tensor:
    given, wanted = given.flatten(0, -2), wanted.flatten(0, -2)
    soft = functional.kl_div(
        functional.log_softmax(given / _TEMPERATURE, -1),
        functional.log_softmax(wanted / _TEMPERATURE, -1),
        reduction="batchmean",
        log_target=True,
    )
    taught = _TEMPERATURE**2 * soft
    if labels is None:
        return taught
    return _OF_TEACHER * taught + (1 - _OF_TEACHER) * functional.cross_entropy(given, labels.flatten())


def _moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures shifted by up to a fourteenth of their side; what comes in from outside is the border's colour."""
    most = max(1, round(min(x.shape[-2:]) / 14))
    down, across = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    padded = functional.pad(x, (most, most, most, most), mode="replicate")
    return padded[..., most + down : most + down + x.shape[-2], most + across : most + across + x.shape[-1]]


def _pace(step: int, steps: int) -> float:
    warm = max(1, int(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
