"""A checkpoint in the making, after its snapshot: a thread serves its writer and settles its commit on every rank."""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from lepton.artifacts import CHECKPOINTS, ArtifactStore, Written
from lepton.errors import DeadlineExceeded, LeptonError, Unavailable
from lepton.train.checkpoints.exchange import Board, LocalBoard, StoreBoard
from lepton.train.checkpoints.forked import why
from lepton.train.checkpoints.manifest import Position
from lepton.train.checkpoints.writing import keys, post, take
from lepton.train.reporter import COMMIT_TIMEOUT_S, Commit, Reporter

FAILURES: Final = (LeptonError, OSError, RuntimeError)  # torch's stores raise RuntimeError
_PREFIX: Final = "lepton/checkpoint/"
_OUTCOME_S: Final = 3600.0 + COMMIT_TIMEOUT_S

Publish = Callable[[Written], None]
Rest = Callable[[Board, Publish], str]
"""What is left to do of a rank's part; returns the manifest's digest on rank 0."""


class Crew:
    """What all checkpoints of a rank need: its place, its store, the board of its gang, its line to the job."""

    def __init__(
        self,
        store: ArtifactStore,
        project: str,
        *,
        rank: int,
        world_size: int,
        reporter: Reporter,
        connect: Callable[[], Any],
    ) -> None:
        self.store, self.project, self.rank, self.world_size = store, project, rank, world_size
        self.reporter, self._connect = reporter, connect

    def board(self) -> Board:
        """A board on a connection of its own. Raises FailedPrecondition, RuntimeError."""
        store = self._connect()
        return LocalBoard() if store is None else StoreBoard(store, _PREFIX)

    def publish(self, written: Written) -> None:
        """Makes a finished file part of the store."""
        self.store.publish(self.project, written, area=CHECKPOINTS)

    def sweep(self) -> None:
        """Removes what dead writers have left."""
        self.store.sweep(self.project, area=CHECKPOINTS)

    def tell(self, number: int, error: Exception, board: Board | None = None) -> None:
        """Lets no other rank wait for this one, which has failed."""
        if self.world_size == 1:
            return
        failed = {"failed": why(error) if self.rank == 0 else f"rank {self.rank}: {why(error)}"}
        names = [f"holds/{self.rank}", f"wrote/{self.rank}"]
        if self.rank == 0:
            names = [*(f"writes/{rank}" for rank in range(1, self.world_size)), "outcome"]
        try:
            board = board or self.board()
            for name in names:
                post(board, f"{number}/{name}", failed)
        except FAILURES:
            pass  # the store is gone, and the gang with it


class Flight:
    """One checkpoint of one rank on its way."""

    def __init__(
        self, crew: Crew, number: int, commit: Commit, position: Position, metrics: Mapping[str, float]
    ) -> None:
        self._crew, self._number, self._commit = crew, number, commit
        self._position, self._metrics = position, metrics
        self.written = threading.Event()

    def start(self, rest: Rest) -> None:
        """Does the rest in a thread."""
        threading.Thread(target=self._run, args=(rest,), name="lepton-checkpoint", daemon=True).start()

    def _run(self, rest: Rest) -> None:
        board: Board | None = None
        try:
            board = self._crew.board()
            digest = rest(board, self._crew.publish)
        except Exception as error:  # noqa: BLE001  # the thread's outermost frame: whatever it is, the commit must settle
            self._fail(error, board)
        else:
            self.written.set()
            if self._crew.rank == 0:
                self._offer(digest, board)
            else:
                self._follow(board)
        finally:
            self.written.set()
        if isinstance(board, StoreBoard):
            with suppress(RuntimeError):  # the store is gone, and the gang with it
                board.forget(keys(self._number, self._crew.world_size), f"{self._number}/read", self._crew.world_size)

    def _offer(self, digest: str, board: Board) -> None:
        answer = self._crew.reporter.checkpoint(digest, step=self._position.step, metrics=self._metrics)
        self._commit.digest = digest
        try:
            answer.wait()
        except DeadlineExceeded as error:
            self._crew.tell(self._number, error, board)
            self._crew.reporter.give_up(self._commit, error)
        except LeptonError as error:
            self._crew.tell(self._number, error, board)
            self._commit.refuse(error)
        else:
            # The others first: whoever waits for this commit may end the process, and this thread with it.
            with suppress(RuntimeError):  # the store is gone, and the gang with it
                post(board, f"{self._number}/outcome", {"digest": digest})
            self._commit.accept()

    def _follow(self, board: Board) -> None:
        try:
            outcome = take(board, f"{self._number}/outcome", _OUTCOME_S)
        except FAILURES as error:
            self._crew.reporter.give_up(self._commit, _typed(error))
            return
        self._commit.digest = outcome["digest"]
        self._commit.accept()

    def _fail(self, error: Exception, board: Board | None) -> None:
        """The checkpoint is not to be: the other ranks hear of it, the job too, and training goes on."""
        self._crew.tell(self._number, error, board)
        self._crew.sweep()
        self._crew.reporter.give_up(self._commit, _typed(error))
        if self._crew.rank == 0:
            self._crew.reporter.checkpoint_failed(f"the checkpoint at step {self._position.step}: {why(error)}")


def _typed(error: Exception) -> LeptonError:
    return error if isinstance(error, LeptonError) else Unavailable("CHECKPOINT_NOT_WRITTEN", why=why(error))
