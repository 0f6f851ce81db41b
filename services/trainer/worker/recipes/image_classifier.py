"""The `image_classifier` recipe: a small convolutional network, also with several heads over one trunk."""

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from lepton import models
from lepton.data import AnyDataset, Dataset, partition
from lepton.models import Architecture
from lepton.models.layers import Normalise
from lepton.train.sampler import Batch
from services.trainer.worker.measures import Classes
from services.trainer.worker.recipes.augmentation import shifted, turned
from services.trainer.worker.samples import Division, Rows
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.task import Task

_STATISTICS_SAMPLES: Final = 10_000
_OF_TRAINING: Final = ("shift_pixels", "turn_degrees")


def task(spec: TrainingSpec, dataset: AnyDataset) -> Task:
    """Labels images; see services/trainer/worker/task.py."""
    assert isinstance(dataset, Dataset)
    x, y = dataset.x, dataset.y
    given_test = 0
    if dataset.x_test is not None and dataset.y_test is not None:
        x, y, given_test = np.concatenate([x, dataset.x_test]), np.concatenate([y, dataset.y_test]), len(dataset.y_test)
    channels, height, width = x.shape[1:]
    side = min(height, width)
    tasks = tuple(max(count, 2) for count in dataset.tasks)
    chosen = {name: value for name, value in spec.model.items() if name not in _OF_TRAINING}
    architecture = Architecture(name=spec.recipe, config=chosen).complete(
        channels=channels,
        height=height,
        width=width,
        classes=sum(tasks),
        heads=tasks if len(tasks) > 1 else (),
        poolings=1 if side < 16 else 2,
    )
    division = Division.of(
        partition(
            len(dataset),
            test_fraction=spec.test_fraction,
            validation_fraction=spec.validation_fraction,
            seed=spec.seed,
            given_test=given_test,
        )
    )
    samples = Rows(torch.from_numpy(x), torch.from_numpy(y))
    mean, spread = _statistics(samples.x, division.train)
    pixels = int(spec.model.get("shift_pixels", max(1, round(side / 14))))
    degrees = float(spec.model["turn_degrees"])

    def build() -> nn.Sequential:
        torch.manual_seed(spec.seed)
        model = models.build(architecture)
        normalise = model.get_submodule("normalise")
        assert isinstance(normalise, Normalise)
        normalise.set(mean, spread)
        return model

    def augment(inputs: Tensor, batch: Batch) -> Tensor:
        moved = shifted(inputs, batch, seed=spec.seed, pixels=pixels)
        return turned(moved, batch, seed=spec.seed, degrees=degrees)

    return Task(
        samples=samples,
        division=division,
        architecture=architecture,
        build=build,
        measure=Classes(tasks),
        augment=augment,
        facts={"classes": list(dataset.names)} if dataset.names else {},
    )


def _statistics(x: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel over the (first ten thousand) training images."""
    pixels = x[train[:_STATISTICS_SAMPLES]].numpy()
    mean = pixels.mean(axis=(0, 2, 3), dtype=np.float64)
    spread = pixels.std(axis=(0, 2, 3), dtype=np.float64)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.maximum(spread, 1e-6)).float()
