"""Which checkpoint a run goes on from: the newest one that is whole, the same on every rank."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from lepton.artifacts import ArtifactStore
from lepton.errors import DeadlineExceeded, FailedPrecondition, LeptonError
from lepton.train.checkpoints.checkpoint import Checkpoint
from lepton.train.checkpoints.exchange import StoreBoard
from lepton.train.checkpoints.forked import why

_PREFIX: Final = "lepton/resume/"
_AGREE_S: Final = 600.0

Damaged = Callable[[str], None]


def newest_whole(
    store: ArtifactStore,
    project: str,
    digests: Sequence[str],
    *,
    rank: int = 0,
    world_size: int = 1,
    gang: Any = None,
    damaged: Damaged = lambda _why: None,
) -> Checkpoint:
    """The first of these checkpoints, newest first, of which every byte is as it was written.

    Alone a rank reads every file through. With the store of its `gang` each rank reads its share, and all of them take
    the same checkpoint; then every rank must call this. Calls `damaged` with what was found wrong.
    Raises FailedPrecondition when none is whole.
    """
    board = None if gang is None or world_size == 1 else StoreBoard(gang, _PREFIX)
    problems = []
    for number, digest in enumerate(digests):
        found, problem = _checked(store, project, digest, rank, world_size if board is not None else 1)
        if board is not None:
            problem = _agreed(board, number, rank, world_size, problem)
        if found is not None and not problem:
            return found
        problems.append(f"the checkpoint {digest} cannot be read: {problem}")
        print(f"lepton: {problems[-1]}", file=sys.stderr, flush=True)
        damaged(problems[-1])
    raise FailedPrecondition("NO_CHECKPOINT_WHOLE", problems="; ".join(problems))


def _checked(store: ArtifactStore, project: str, digest: str, rank: int, of: int) -> tuple[Checkpoint | None, str]:
    try:
        found = Checkpoint(store, project, digest)
        found.verify(lambda index: index % of == rank % of)
    except (LeptonError, OSError) as error:
        return None, why(error)
    return found, ""


def _agreed(board: StoreBoard, number: int, rank: int, world_size: int, problem: str) -> str:
    """The first problem that any rank has found, empty when none has."""
    board.post(f"{number}/{rank}", problem.encode())
    try:
        found = [board.take(f"{number}/{each}", _AGREE_S).decode() for each in range(world_size)]
    except DeadlineExceeded as error:
        raise FailedPrecondition("RESUME_NOT_AGREED", seconds=f"{_AGREE_S:.0f}") from error
    return next((each for each in found if each), "")
