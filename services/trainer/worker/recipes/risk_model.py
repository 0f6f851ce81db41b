"""The `risk_model` recipe: the columns of a table, from which a class is foretold."""

import numpy as np
import torch
from torch import nn

from lepton import models
from lepton.data import AnyDataset, Table, partition
from lepton.models import Architecture
from lepton.models.risk_model import Columns
from services.trainer.worker.measures import Classes
from services.trainer.worker.samples import Division, Rows
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.task import Task


def task(spec: TrainingSpec, dataset: AnyDataset) -> Task:
    """Foretells a class from a row; see services/trainer/worker/task.py."""
    assert isinstance(dataset, Table)
    sizes = [len(categories) for categories in dataset.categories]
    architecture = Architecture(name=spec.recipe, config=spec.model).complete(columns=sizes, classes=len(dataset.names))
    parts = partition(
        len(dataset),
        test_fraction=spec.test_fraction,
        validation_fraction=spec.validation_fraction,
        seed=spec.seed,
    )
    numbers = dataset.x[parts.train][:, [index for index, size in enumerate(sizes) if not size]].astype(np.float64)
    is_known = ~np.isnan(numbers)
    count = np.maximum(is_known.sum(0), 1)
    mean = np.where(is_known, numbers, 0.0).sum(0) / count
    spread = np.sqrt(np.where(is_known, (numbers - mean) ** 2, 0.0).sum(0) / count)

    def build() -> nn.Sequential:
        torch.manual_seed(spec.seed)
        model = models.build(architecture)
        columns = model.get_submodule("columns")
        assert isinstance(columns, Columns)
        columns.set(torch.from_numpy(mean).float(), torch.from_numpy(np.maximum(spread, 1e-6)).float())
        return model

    return Task(
        samples=Rows(torch.from_numpy(dataset.x), torch.from_numpy(dataset.y)),
        division=Division.of(parts),
        architecture=architecture,
        build=build,
        measure=Classes((len(dataset.names),)),
        facts=dict(dataset.facts()),
    )
