"""Measures a model on held-out samples, divided over the ranks."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from lepton.train.parallel import Strategy
from services.trainer.worker.meter import Meter
from services.trainer.worker.task import Task

_BATCH: Final = 512


def measure(strategy: Strategy, task: Task, numbers: Tensor, *, is_shared: bool = True) -> Meter:
    """What this rank sees of the samples; every rank of the gang calls it, and makes equally many passes.

    Not `is_shared`: it sees all of them, as ranks that do not step together must.
    """
    first, ranks = (strategy.data_rank, strategy.data_size) if is_shared else (0, 1)
    share = numbers[first::ranks]
    passes = math.ceil(math.ceil(len(numbers) / ranks) / _BATCH)
    meter = Meter(task.measure)
    strategy.model.eval()
    try:
        for index in range(passes):
            inputs, targets = task.samples.take(share[index * _BATCH : (index + 1) * _BATCH])
            _note(meter, task, strategy.evaluate(inputs), targets, counts=strategy.counts)
    finally:
        strategy.model.train()
    return meter


def measure_alone(model: nn.Module, task: Task, numbers: Tensor) -> dict[str, float]:
    """The metrics of a whole model, measured by one rank."""
    meter = Meter(task.measure)
    model.eval()
    with torch.no_grad():
        for chunk in torch.split(numbers, _BATCH):
            inputs, targets = task.samples.take(chunk)
            _note(meter, task, model(inputs), targets, counts=True)
    return meter.metrics(meter.totals())


def named(prefix: str, metrics: dict[str, float], leave_out: Sequence[str] = ("samples_per_s",)) -> dict[str, float]:
    """The metrics under names that begin with the part of the data that they are of."""
    return {f"{prefix}_{name}": value for name, value in metrics.items() if name not in leave_out}


def _note(meter: Meter, task: Task, outputs: Tensor | None, targets: Tensor, *, counts: bool) -> None:
    if outputs is None or not counts:
        return
    targets = targets.to(outputs.device)
    meter.add(float(task.measure.loss(outputs, targets)) if len(targets) else 0.0, outputs, targets)
