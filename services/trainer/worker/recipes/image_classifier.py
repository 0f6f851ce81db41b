"""The `image_classifier` recipe: trains a small convolutional network data-parallel, step-exactly resumable, and packages it."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lepton import data, models
from lepton.errors import FailedPrecondition
from lepton.train.checkpoints import Checkpoint, Position
from lepton.train.rank_session import RankSession
from lepton.train.reporter import Commit
from lepton.train.sampler import Batch, StepSampler
from services.trainer.worker.package import store_package
from services.trainer.worker.recipes.augmentation import shifted
from services.trainer.worker.recipes.meter import Meter
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.tracing import Tracing
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel


def train(spec: TrainingSpec, session: RankSession, tracing: Tracing) -> bool:
    """Trains to the end, or to the moment when any rank is asked to stop; every rank of the gang calls it."""
    images = Images.load(spec, session)
    run = Run(spec, session, tracing, images)
    saved = session.resume()
    if saved is not None:
        run.restore(saved)
    if not run.train():
        return False
    run.finish()
    return True
