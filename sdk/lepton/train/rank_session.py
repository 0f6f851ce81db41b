"""One rank's session: its environment, line to the agent, artifacts and gang, behind lepton.train's functions."""

import atexit
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sized
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch.distributed as dist

import lepton
from lepton.artifacts import ArtifactStore
from lepton.errors import FailedPrecondition, LeptonError
from lepton.train.checkpoints import Checkpoint, Position, Saver, gang_store, newest_whole
from lepton.train.environment import RankEnvironment
from lepton.train.gang import Gang
from lepton.train.pace import Pace
from lepton.train.reporter import COMMIT_TIMEOUT_S, Commit, Reporter
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
    def pace(self) -> Pace:
        """What the agent is told of the rank's steps."""
        return Pace(self.reporter, hang_timeout_s=self.environment.hang_timeout_s)

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
        return self.pace.over(sampler.batches(epochs=epochs, position=position))

    def should_stop(self) -> bool:
        """Whether any rank was asked to stop; all ranks get the same answer, so all must ask at the same step."""
        self.reporter.check()
        return self.gang.sum([float(self.reporter.is_stop_requested)])[0] > 0

    @cached_property
    def saver(self) -> Saver:
        """Takes this rank's checkpoints. What is being written when the program ends well is waited for."""
        place = self.environment
        saver = Saver(
            self.store,
            place.project,
            rank=0 if self.gang.is_loose else place.rank,  # loose ranks do not step together: one of them saves alone
            world_size=1 if self.gang.is_loose else place.world_size,
            reporter=self.reporter,
            connect=lambda: None if self.gang.is_loose else gang_store(place),
            can_fork=lepton.FORKS_ARE_QUIET,
        )
        atexit.register(self._settle)
        return saver

    def checkpoint(
        self, state: Mapping[str, Any], *, position: Position, metrics: Mapping[str, float], config_digest: str
    ) -> Commit:
        """Takes a checkpoint of the gang's state and offers it to the job; every rank calls it at the same step.

        The state may hold DTensors, and keys that only some ranks have. Returns once training may go on; the commit
        settles when the checkpoint is written and accepted, on every rank. One is written at a time: the next call
        waits for it. Raises InvalidArgument naming what cannot be kept.
        """
        return self.saver.save(state, position=position, metrics=metrics, config_digest=config_digest)

    def resume(self) -> Checkpoint | None:
        """The newest whole checkpoint of the run; None when it starts from nothing. Every rank calls it.

        Raises FailedPrecondition when there are checkpoints and none of them is whole.
        """
        place = self.environment
        if not place.resume:
            return None
        is_joined = place.world_size > 1 and dist.is_initialized()  # else every rank reads all, and finds the same
        return newest_whole(
            self.store,
            place.project,
            (place.resume, *place.resume_older),
            rank=place.rank,
            world_size=place.world_size,
            gang=gang_store(place) if is_joined else None,
            damaged=self.reporter.checkpoint_failed if place.rank == 0 else lambda _why: None,
        )

    def _settle(self) -> None:
        error_file = self.environment.error_file
        if hasattr(sys, "last_value") or (error_file is not None and error_file.exists()):
            return  # the rank has failed: that is to be known at once
        self.saver.settle(COMMIT_TIMEOUT_S)
        with suppress(LeptonError):
            self.reporter.drain()
