"""The worker API: what a training script calls to know its place, share the data, report, save and resume.

    from lepton import train

    saved = train.resume()
    if saved:
        model.load_state_dict(saved.state["model"])
    batches = train.shard(dataset, batch_size=64, epochs=20, position=saved.position.samples if saved else 0)
    with train.prefetch(batches, lambda batch: (batch, x[batch.indices], y[batch.indices])) as prepared:
        for batch, inputs, targets in prepared:           # this rank's samples of the global batch
            ...
            train.report({"loss": loss}, step=batch.step, epoch=batch.epoch)
            is_over = train.should_stop()                 # all ranks ask at the same step, and all save
            if batch.ends_epoch or is_over:
                state = {"model": model.state_dict()}
                train.checkpoint(state, step=batch.step, epoch=batch.epoch, samples=batch.consumed)
            if is_over:
                sys.exit(train.EXIT_STOPPED)              # what is being written is waited for

The global batch is fixed: ranks divide it, however many there are, so a run that is stopped and goes on with others
uses every sample once per epoch all the same. A plain torch script that uses none of this runs as well. torch is
imported by the first call that needs it.
"""

from collections.abc import Iterator, Mapping, Sized
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from lepton.train.prefetch import Prefetch, prefetch
from lepton.train.sampler import Batch

if TYPE_CHECKING:
    from lepton.train.checkpoints import Checkpoint
    from lepton.train.rank_session import RankSession
    from lepton.train.reporter import Commit

__all__ = [
    "EXIT_STOPPED", "Batch", "Prefetch", "checkpoint", "prefetch", "rank", "report", "resume", "session", "shard",
    "should_stop", "world_size",
]  # fmt: skip

EXIT_STOPPED: Final = 75  # the exit code of a rank that saved its work and left because it was asked to


@lru_cache(maxsize=1)
def session() -> "RankSession":
    """The session of this process, made on first use."""
    from lepton.train.rank_session import RankSession

    return RankSession.from_process()


def rank() -> int:
    """This rank's number, from 0."""
    return session().environment.rank


def world_size() -> int:
    """How many ranks the gang has."""
    return session().environment.world_size


def shard(dataset: Sized, *, batch_size: int, epochs: int = 1, seed: int = 0, position: int = 0) -> Iterator[Batch]:
    """This rank's share of every global batch of `batch_size` samples, from `position` consumed samples on.

    After any stops and restarts, at any world size, every sample is used once per epoch and in the same order.
    """
    return session().shard(dataset, batch_size=batch_size, epochs=epochs, seed=seed, position=position)


def report(
    metrics: Mapping[str, float], *, step: int, epoch: int = 0, progress: float = 0.0, total_steps: int = 0
) -> None:
    """Sends metrics to whoever watches the job; all ranks call it, and those of rank 0 are sent.

    `progress` runs from 0 to 1; with `total_steps` it need not be given.
    """
    session().pace.stepped(step)
    if rank() == 0:
        done = progress or (step / total_steps if total_steps else 0.0)
        session().reporter.metrics(metrics, step=step, epoch=epoch, progress=done, total_steps=total_steps)


def checkpoint(
    state: Mapping[str, Any],
    *,
    step: int,
    epoch: int = 0,
    samples: int = 0,
    metrics: Mapping[str, float] | None = None,
    config_digest: str = "",
) -> "Commit":
    """Stores the gang's state (nested mappings of tensors and plain values); every rank calls it at the same step.

    Returns once training may go on; `.wait()` returns once the checkpoint is written and counts.
    """
    from lepton.train.checkpoints import Position

    position = Position(step=step, epoch=epoch, samples=samples)
    return session().checkpoint(state, position=position, metrics=metrics or {}, config_digest=config_digest)


def should_stop() -> bool:
    """Whether the run was asked to stop by a preemption notice; all ranks must ask at the same step."""
    return session().should_stop()


def resume() -> "Checkpoint | None":
    """The last committed checkpoint (`.position`, `.state`), or None at the first start."""
    return session().resume()
