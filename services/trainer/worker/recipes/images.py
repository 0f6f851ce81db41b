"""The dataset of a run as tensors: loaded by digest, divided by seed, with the statistics to normalise by."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from lepton import data
from lepton.train.rank_session import RankSession
from services.trainer.worker.spec import TrainingSpec

_STATISTICS_SAMPLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """All images and labels, and which of them are trained on and which are held out."""

    x: torch.Tensor  # as stored, so that uint8 images stay small in memory
    y: torch.Tensor
    classes: int
    train: torch.Tensor
    test: torch.Tensor

    @classmethod
    def load(cls, spec: TrainingSpec, session: RankSession) -> Self:
        """The images of the spec's dataset artifact."""
        dataset = data.from_safetensors(session.store.read(spec.project, spec.dataset))
        parts = data.split(len(dataset), test_fraction=spec.test_fraction, seed=spec.seed)
        return cls(
            x=torch.from_numpy(dataset.x),
            y=torch.from_numpy(dataset.y),
            classes=max(dataset.classes, 2),
            train=torch.from_numpy(parts.train),
            test=torch.from_numpy(parts.test),
        )

    def take(self, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The float32 images and the labels of those samples."""
        return self.x[samples].float(), self.y[samples]

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of every channel over the (first ten thousand) training images."""
        pixels = self.x[self.train[:_STATISTICS_SAMPLES]].numpy()
        mean = pixels.mean(axis=(0, 2, 3), dtype=np.float64)
        spread = pixels.std(axis=(0, 2, 3), dtype=np.float64)
        return torch.from_numpy(mean).float(), torch.from_numpy(np.maximum(spread, 1e-6)).float()
