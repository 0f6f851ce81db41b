"""The `recommender` recipe: embeddings of users and items that foretell ratings."""

import numpy as np
import torch
from torch import nn

from lepton import models
from lepton.data import AnyDataset, Ratings, partition
from lepton.models import Architecture
from lepton.models.recommender import Rating
from services.trainer.worker.measures import Values
from services.trainer.worker.samples import Division, Rows
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.task import Task


def task(spec: TrainingSpec, dataset: AnyDataset) -> Task:
    """Foretells ratings; see services/trainer/worker/task.py."""
    assert isinstance(dataset, Ratings)
    architecture = Architecture(name=spec.recipe, config=spec.model).complete(
        users=len(dataset.users), items=len(dataset.items)
    )
    parts = partition(
        len(dataset),
        test_fraction=spec.test_fraction,
        validation_fraction=spec.validation_fraction,
        seed=spec.seed,
    )
    ratings = torch.from_numpy(np.array(dataset.ratings))[:, None]
    known = ratings[torch.from_numpy(parts.train)]

    def build() -> nn.Sequential:
        torch.manual_seed(spec.seed)
        model = models.build(architecture)
        output = model.get_submodule("output")
        assert isinstance(output, Rating)
        output.set(known.mean(0))
        return model

    return Task(
        samples=Rows(torch.from_numpy(np.array(dataset.pairs)), ratings),
        division=Division.of(parts),
        architecture=architecture,
        build=build,
        measure=Values(known.std(0, correction=0).clamp_min(1e-6)),
        output="rating",
        facts={"users": list(dataset.users), "items": list(dataset.items)},
    )
