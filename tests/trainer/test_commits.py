"""Which checkpoints a job keeps: the latest and the best, whatever the order of their values."""

import math

import hypothesis.strategies as st
from hypothesis import given

from chassis.kv import Delete
from lepton.internal.v1.run_report_pb2 import CheckpointWritten
from lepton.names import JobName
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import CheckpointPolicy, Job
from services.trainer.commits import is_repeat, note_failed, note_written, retention, to_keep
from services.trainer.store import checkpoint_key

NAME = JobName("acme", "digits")
values = st.none() | st.sampled_from([math.nan, math.inf, 0.0, 1.0]) | st.floats(-5, 5)


def checkpoint(step: int, value: float | None = None, generation: int = 1) -> Checkpoint:
    metrics = {} if value is None else {"accuracy": value}
    return Checkpoint(step=step, generation=generation, manifest=f"m{step}", metrics=metrics)


@given(
    losses=st.lists(values, max_size=12),
    latest=st.integers(0, 5),
    best=st.integers(0, 5),
    maximize=st.booleans(),
)
def test_the_latest_and_the_best_are_kept_and_nothing_else(
    losses: list[float | None], latest: int, best: int, maximize: bool
) -> None:
    policy = CheckpointPolicy(keep_latest=latest, keep_best=best, metric="accuracy", maximize=maximize)
    newest_first = [checkpoint(step, value) for step, value in reversed(list(enumerate(losses)))]
    kept = to_keep(policy, newest_first)
    newest = newest_first[: latest or 3]
    measured = [one for one in newest_first if math.isfinite(one.metrics.get("accuracy", math.nan))]
    assert all(one in kept for one in newest)
    others = [one for one in kept if one not in newest]
    assert len(others) <= best
    assert len([one for one in kept if one in measured]) >= min(best, len(measured))
    for one in others:
        better = [
            each for each in measured
            if (each.metrics["accuracy"] > one.metrics["accuracy"]) == maximize
            and each.metrics["accuracy"] != one.metrics["accuracy"]
        ]  # fmt: skip
        assert len(better) < best
    assert kept == [one for one in newest_first if one in kept]


@given(losses=st.lists(values, min_size=1, max_size=12), best=st.integers(0, 3))
def test_committing_one_by_one_keeps_what_keeping_once_would(losses: list[float | None], best: int) -> None:
    job = Job(checkpoint_policy=CheckpointPolicy(keep_latest=2, keep_best=best, metric="accuracy"))
    kept: list[Checkpoint] = []
    for step, value in enumerate(losses):
        newest = checkpoint(step, value)
        dropped = {op.key for op in retention(NAME, job, newest, kept) if isinstance(op, Delete)}
        kept = [newest, *(one for one in kept if checkpoint_key(NAME, one.step) not in dropped)]
    everything = [checkpoint(step, value) for step, value in reversed(list(enumerate(losses)))]
    assert [one.step for one in kept] == [one.step for one in to_keep(job.checkpoint_policy, everything)]


def test_a_run_that_went_on_from_an_older_checkpoint_replaces_the_newer_ones() -> None:
    kept = [checkpoint(30, generation=1), checkpoint(20, generation=1), checkpoint(10, generation=1)]
    again = CheckpointWritten(step=25, manifest="other")
    assert not is_repeat(kept[0], 2, again)
    dropped = retention(NAME, Job(), checkpoint(25, generation=2), kept)
    assert dropped == [Delete(checkpoint_key(NAME, 30))]


def test_a_late_repeat_of_the_same_generation_is_no_news() -> None:
    assert is_repeat(checkpoint(30), 1, CheckpointWritten(step=20, manifest="m20"))
    assert is_repeat(checkpoint(30), 1, CheckpointWritten(step=30, manifest="m30"))
    assert not is_repeat(checkpoint(30), 1, CheckpointWritten(step=40, manifest="m40"))
    assert not is_repeat(None, 1, CheckpointWritten(step=0, manifest="m0"))


def test_a_checkpoint_that_failed_is_shown_until_one_succeeds() -> None:
    job = Job(message="")
    note_failed(job, ["No space left on device"])
    assert job.message == "checkpoint not written: No space left on device"
    note_written(job)
    assert job.message == ""
    job.message = "waiting for nodes"
    note_written(job)
    assert job.message == "waiting for nodes"
