"""The `text_classifier` recipe: hashed words, one convolution over them."""

import torch
from torch import nn

from lepton import models
from lepton.data import AnyDataset, Texts, partition
from lepton.data.tokens import hashed
from lepton.models import Architecture
from services.trainer.worker.measures import Classes
from services.trainer.worker.samples import Division, Rows
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.task import Task


def task(spec: TrainingSpec, dataset: AnyDataset) -> Task:
    """Labels texts; see services/trainer/worker/task.py."""
    assert isinstance(dataset, Texts)
    architecture = Architecture(name=spec.recipe, config=spec.model).complete(classes=len(dataset.names))
    vocabulary, length = spec.model["vocabulary"], spec.model["length"]
    tokens = torch.from_numpy(hashed(dataset.texts, vocabulary=vocabulary, length=length))
    parts = partition(
        len(dataset) - dataset.given_test,
        test_fraction=spec.test_fraction,
        validation_fraction=spec.validation_fraction,
        seed=spec.seed,
        given_test=dataset.given_test,
    )

    def build() -> nn.Sequential:
        torch.manual_seed(spec.seed)
        return models.build(architecture)

    return Task(
        samples=Rows(tokens, torch.from_numpy(dataset.y)),
        division=Division.of(parts),
        architecture=architecture,
        build=build,
        measure=Classes((len(dataset.names),)),
        facts={"classes": list(dataset.names), "tokens": "lepton.data.tokens.hashed"},
    )
