"""One rank's session: its environment, line to the agent, artifacts and gang, behind lepton.train's functions."""

import os
import socket
from collections.abc import Iterator, Mapping, Sized
from functools import cached_property
from typing import Any

from lepton.artifacts import ArtifactStore
from lepton.errors import FailedPrecondition
from lepton.train import checkpoints
from lepton.train.checkpoints import Checkpoint, Position
from lepton.train.environment import RankEnvironment
from lepton.train.gang import Gang
from lepton.train.reporter import Commit, Reporter
from lepton.train.sampler import Batch, StepSampler


class RankSession:
    """What a rank needs from Lepton; works alone, under torchrun and under an agent."""

    def __init__(self, environment: RankEnvironment) -> None:
        self.environment = environment

    @classmethod
    def from_process(cls) -> "RankSession":
        """The session of this process."""
        return cls(RankEnvironment.parse(os.environ))

    @cached_property
    def gang(self) -> Gang:
        """The ranks of the run; `gang.join()` is the caller's to do."""
        return Gang(self.environment)

    @cached_property
    def reporter(self) -> Reporter:
        """The line to the agent."""
        number = self.environment.report_fd
        return Reporter(None if number is None else socket.socket(fileno=number))

    @cached_property
    def store(self) -> ArtifactStore:
        """The artifacts of the run's project."""
        if not self.environment.artifacts or not self.environment.project:
            raise FailedPrecondition("ARTIFACTS_NOT_CONFIGURED")
        return ArtifactStore(self.environment.artifacts)

    def shard(self, dataset: Sized, *, batch_size: int, epochs: int, seed: int, position: int) -> Iterator[Batch]:
        """This rank's share of every global batch from `position` consumed samples on."""
        place = self.environment
        sampler = StepSampler(
            count=len(dataset), batch_size=batch_size, seed=seed, rank=place.rank, world_size=place.world_size
        )
        return sampler.batches(epochs=epochs, position=position)

    def should_stop(self) -> bool:
        """Whether any rank was asked to stop; all ranks get the same answer, so all must ask at the same step."""
        self.reporter.check()
        return self.gang.sum([float(self.reporter.is_stop_requested)])[0] > 0

    def checkpoint(
        self, state: Mapping[str, Any], *, position: Position, metrics: Mapping[str, float], config_digest: str
    ) -> Commit:
        """Rank 0 stores the state and offers it to the job; the other ranks have nothing to do."""
        place = self.environment
        if place.rank != 0:
            commit = Commit(f"checkpoint-{position.step}", "")
            commit.accept()
            return commit
        digest = checkpoints.save(
            self.store,
            place.project,
            state,
            position=position,
            world_size=place.world_size,
            config_digest=config_digest,
        )
        return self.reporter.checkpoint(digest, step=position.step, metrics=metrics)

    def resume(self) -> Checkpoint | None:
        """The checkpoint that the run goes on from; None when it starts from nothing."""
        if not self.environment.resume:
            return None
        return checkpoints.load(self.store, self.environment.project, self.environment.resume)
