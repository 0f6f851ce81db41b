"""The step-exact sampler: which samples a rank takes at a step, as a pure function of seed and consumed samples.

The global batch is fixed, whatever the number of ranks: they divide it among themselves. So a run that stops after
`position` samples and goes on with other ranks takes exactly the samples that the uninterrupted run would have taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lepton.data.limits import Array
from lepton.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One step's global batch and this rank's share of it: `indices`, which are its samples `start..stop`."""

    step: int  # counted from 1: the step that this batch makes
    epoch: int  # counted from 0
    size: int  # of the global batch; the last one of an epoch may be smaller
    start: int
    stop: int
    indices: Array
    consumed: int  # samples consumed by the run once this step is made
    ends_epoch: bool


class StepSampler:
    """The order in which a gang consumes `count` samples: a fresh seeded permutation per epoch, in global batches."""

    def __init__(self, *, count: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if count < 1 or batch_size < 1 or not 0 <= rank < world_size:
            place = f"{count} samples, batch size {batch_size}, rank {rank} of {world_size}"
            raise InvalidArgument("INVALID_FIELD", fields={"batch_size": f"cannot divide {place}"})
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._rank, self._world_size = rank, world_size
        self.steps_per_epoch = -(-count // batch_size)

    def batches(self, *, epochs: int, position: int = 0) -> Iterator[Batch]:
        """The batches from `position` consumed samples to the end of the last epoch."""
        for epoch in range(position // self._count, epochs):
            order = self._order(epoch)
            offset = max(position - epoch * self._count, 0)
            while offset < self._count:
                batch = order[offset : offset + self._batch_size]
                step = epoch * self.steps_per_epoch + -(-(offset + len(batch)) // self._batch_size)
                offset += len(batch)
                start, stop = self._share(len(batch))
                yield Batch(
                    step=step,
                    epoch=epoch,
                    size=len(batch),
                    start=start,
                    stop=stop,
                    indices=batch[start:stop],
                    consumed=epoch * self._count + offset,
                    ends_epoch=offset == self._count,
                )

    def _order(self, epoch: int) -> Array:
        return np.random.Generator(np.random.PCG64([self._seed, epoch])).permutation(self._count)

    def _share(self, size: int) -> tuple[int, int]:
        # Contiguous, and as even as can be: concatenated over the ranks the shares are the batch.
        return size * self._rank // self._world_size, size * (self._rank + 1) // self._world_size
