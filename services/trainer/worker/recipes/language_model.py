"""The `language_model` recipe: a small GPT over the bytes of a text, the end of which is held out."""

from typing import Final

import numpy as np
import torch
from torch import nn

from lepton import models
from lepton.data import AnyDataset, Corpus, partition
from lepton.errors import InvalidArgument
from lepton.models import Architecture
from services.trainer.worker.measures import NextTokens
from services.trainer.worker.samples import Division, Windows
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.task import Task

_BYTES: Final = 256


def task(spec: TrainingSpec, dataset: AnyDataset) -> Task:
    """Continues text; see services/trainer/worker/task.py."""
    assert isinstance(dataset, Corpus)
    architecture = Architecture(name=spec.recipe, config=spec.model).complete(vocabulary=_BYTES)
    context = spec.model["context"]
    boundary = len(dataset) - dataset.given_test
    first, second = np.arange(0, boundary - context, context), np.arange(boundary, len(dataset) - context, context)
    if len(first) < 2 or (dataset.given_test and not len(second)):
        raise InvalidArgument(
            "DATASET_INVALID", problem=f"there are {len(dataset)} bytes of text for a context of {context}; give more"
        )
    parts = partition(
        len(first),
        test_fraction=spec.test_fraction,
        validation_fraction=spec.validation_fraction,
        seed=spec.seed,
        given_test=len(second),
        is_ordered=True,
    )

    def build() -> nn.Sequential:
        torch.manual_seed(spec.seed)
        return models.build(architecture)

    starts = torch.from_numpy(np.concatenate([first, second]))
    stream = torch.from_numpy(np.array(dataset.content))
    return Task(
        samples=Windows(stream, starts, length=context, shift=1, ahead=context),
        division=Division.of(parts),
        architecture=architecture,
        build=build,
        measure=NextTokens(),
        facts={"tokens": "bytes of UTF-8"},
    )
