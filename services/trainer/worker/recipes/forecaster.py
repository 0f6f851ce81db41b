"""The `forecaster` recipe: windows of series, of which the latest are held out."""

import numpy as np
import torch
from torch import nn

from lepton import models
from lepton.data import AnyDataset, Parts, Series, partition
from lepton.errors import InvalidArgument
from lepton.models import Architecture
from lepton.models.forecaster import Forecast
from lepton.models.layers import Normalise
from services.trainer.worker.measures import Values
from services.trainer.worker.samples import Division, Windows
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.task import Task


def task(spec: TrainingSpec, dataset: AnyDataset) -> Task:
    """Continues time series; see services/trainer/worker/task.py."""
    assert isinstance(dataset, Series)
    architecture = Architecture(name=spec.recipe, config=spec.model).complete(series=len(dataset.columns))
    window, horizon = spec.model["window"], spec.model["horizon"]
    count = len(dataset) - window - horizon + 1
    if count < 4:
        problem = f"there are {len(dataset)} moments for a window of {window} and a horizon of {horizon}; give more"
        raise InvalidArgument("DATASET_INVALID", problem=problem)
    parts = partition(
        count,
        test_fraction=spec.test_fraction,
        validation_fraction=spec.validation_fraction,
        seed=spec.seed,
        is_ordered=True,
    )
    values = torch.from_numpy(np.array(dataset.values))
    known = values[: int(parts.train.max()) + window + horizon]
    mean, spread = known.mean(0), known.std(0).clamp_min(1e-6)

    def build() -> nn.Sequential:
        torch.manual_seed(spec.seed)
        model = models.build(architecture)
        normalise, output = model.get_submodule("normalise"), model.get_submodule("output")
        assert isinstance(normalise, Normalise)
        assert isinstance(output, Forecast)
        normalise.set(mean, spread)
        output.set(mean, spread)
        return model

    return Task(
        samples=Windows(values, torch.arange(count), length=window, shift=window, ahead=horizon),
        division=Division.of(_apart(parts, horizon - 1)),
        architecture=architecture,
        build=build,
        measure=Values(spread),
        output="forecast",
        facts={"series": list(dataset.columns)},
    )


def _apart(parts: Parts, gap: int) -> Parts:
    """Without the windows that would forecast what the next part is measured on; as long as others are left."""
    train, validation = parts.train, parts.validation
    return Parts(
        train=train[: len(train) - gap] if len(train) > gap else train,
        validation=validation[: len(validation) - gap] if len(validation) > gap else validation,
        test=parts.test,
    )
