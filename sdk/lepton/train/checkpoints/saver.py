"""Takes the checkpoints of one rank: a snapshot while training waits, everything else behind its back."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lepton.artifacts import CHECKPOINTS, ArtifactStore, Draft
from lepton.errors import LeptonError
from lepton.train.checkpoints.exchange import Board, LocalBoard
from lepton.train.checkpoints.flight import FAILURES, Crew, Flight, Publish, Rest
from lepton.train.checkpoints.forked import ForkedWriter, fork
from lepton.train.checkpoints.manifest import Position
from lepton.train.checkpoints.memory import holding
from lepton.train.checkpoints.pages import Changes, make_huge, make_own
from lepton.train.checkpoints.staging import Staging, unshared
from lepton.train.checkpoints.tree import flatten
from lepton.train.checkpoints.writing import Progress, Task, abandon, plan, write
from lepton.train.reporter import Commit, Reporter


class Saver:
    """The checkpoints of one rank, at most one of them being written.

    `connect` gives a connection of its own to the gang's store, None for a rank that is alone. Without `can_fork`
    what is to be written is copied first, and a thread writes it; so it is from then on when a fork has gone wrong.
    """

    def __init__(
        self,
        store: ArtifactStore,
        project: str,
        *,
        rank: int,
        world_size: int,
        reporter: Reporter,
        connect: Callable[[], Any] = lambda: None,
        can_fork: bool = True,
    ) -> None:
        self._crew = Crew(store, project, rank=rank, world_size=world_size, reporter=reporter, connect=connect)
        self._can_fork = can_fork
        self._staging, self._changes = Staging(), Changes()
        self._number = 0
        self._flight: Flight | None = None
        self._writer: ForkedWriter | None = None

    def save(
        self, state: Mapping[str, Any], *, position: Position, metrics: Mapping[str, float], config_digest: str
    ) -> Commit:
        """Takes a checkpoint; when it returns training may go on and change the state.

        Waits for the one before it to be written. Raises InvalidArgument naming what cannot be kept; a checkpoint that
        cannot be written is told by its commit, and to the job.
        """
        self.settle()
        self._number += 1
        try:
            task = _task(self._crew, self._number, state, position, config_digest)
        except LeptonError as error:
            self._crew.tell(self._number, error)
            raise
        commit = self._crew.reporter.expect(f"checkpoint-{position.step}")
        self._flight = Flight(self._crew, self._number, commit, position, dict(metrics))
        self._flight.start(self._snapshot(task))
        return commit

    def settle(self, timeout_s: float | None = None) -> bool:
        """Waits until what is being written is written, or has failed; whether it is."""
        return self._flight is None or self._flight.written.wait(timeout_s)

    def _snapshot(self, task: Task) -> Rest:
        """What must be done before training goes on; what it returns is the rest."""
        if (
            not self._can_fork
            or (self._writer and self._writer.is_broken)
            or any(held.local.device.type != "cpu" for held in task.holdings.values())
        ):
            return self._staged(task)
        task = replace(task, holdings=unshared(task.holdings))
        changed = self._changes.since_last(task.holdings)
        try:
            writer = self._writer = fork(lambda board, publish, progress: _do(task, board, publish, progress))
        except OSError:  # no process to be had: then training waits until all is written
            return self._foreground(task)

        def rest(board: Board, publish: Publish) -> str:
            make_own(changed)
            try:
                return writer.result(board, publish)
            finally:
                make_huge(changed)

        return rest

    def _staged(self, task: Task) -> Rest:
        try:
            agreed = plan(task, self._crew.board())
        except FAILURES as error:
            return _raising(error)
        copies, ready = self._staging.copy(task.holdings, agreed.paths)
        staged = replace(task, holdings=copies)

        def rest(board: Board, publish: Publish) -> str:
            ready()
            try:
                return write(staged, agreed, board, publish)
            finally:
                abandon(staged)

        return rest

    def _foreground(self, task: Task) -> Rest:
        try:
            digest = _do(task, self._crew.board(), self._crew.publish, lambda: None)
        except FAILURES as error:
            return _raising(error)
        return lambda _board, _publish: digest


def save(
    store: ArtifactStore, project: str, state: Mapping[str, Any], *, position: Position, config_digest: str = ""
) -> str:
    """Writes a checkpoint of a process that is alone, here and now, and returns its manifest's digest."""
    crew = Crew(store, project, rank=0, world_size=1, reporter=Reporter(None), connect=lambda: None)
    task = _task(crew, 1, state, position, config_digest)
    return _do(task, LocalBoard(), crew.publish, lambda: None)


def _task(crew: Crew, number: int, state: Mapping[str, Any], position: Position, config_digest: str) -> Task:
    tree, tensors = flatten(state)

    def draft() -> Draft:
        return crew.store.draft(crew.project, area=CHECKPOINTS)

    return Task(
        number=number,
        rank=crew.rank,
        world_size=crew.world_size,
        position=position,
        config_digest=config_digest,
        tree=tree,
        holdings={path: holding(path, tensor) for path, tensor in tensors.items()},
        shard=draft(),
        ends=(draft(), draft()) if crew.rank == 0 else None,
    )


def _do(task: Task, board: Board, publish: Publish, progress: Progress) -> str:
    try:
        return write(task, plan(task, board), board, publish, progress)
    finally:
        abandon(task)


def _raising(error: Exception) -> Rest:
    def rest(_board: Board, _publish: Publish) -> str:
        raise error

    return rest
