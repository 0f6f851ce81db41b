"""What the state of a workload means for its job."""

import pytest

from chassis.resources import now
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from lepton.trainer.v1.job_pb2 import Job, Recipe
from services.trainer import lifecycle
from services.trainer.failures import failure, note_failure
from services.trainer.lifecycle import ENDED, NEXT, end_without_workload, observe, refuse

STATES = [value for value in Job.State.values() if value != Job.STATE_UNSPECIFIED]
WORKLOAD_STATES = [value for value in Workload.State.values() if value != Workload.STATE_UNSPECIFIED]


def test_every_state_has_its_next_ones() -> None:
    assert sorted(NEXT) == sorted(STATES)
    assert {state for state, following in NEXT.items() if not following} == ENDED
    assert all(state not in following for state, following in NEXT.items())
    assert {state for following in NEXT.values() for state in following} == set(STATES)


def test_every_state_of_a_workload_is_seen_but_the_one_that_decides_nothing() -> None:
    assert set(lifecycle._SEEN_AS) == set(WORKLOAD_STATES) - {Workload.CANCELLING}


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("shown", WORKLOAD_STATES)
def test_a_job_only_goes_where_it_may(before: Job.State.ValueType, shown: Workload.State.ValueType) -> None:
    job = Job(state=before)
    observe(job, Workload(state=shown), now())
    assert job.state == before or job.state in NEXT[before]
    if before in ENDED:
        assert job.state == before


@pytest.mark.parametrize("shown", WORKLOAD_STATES)
def test_a_job_being_cancelled_never_runs_again(shown: Workload.State.ValueType) -> None:
    job = Job(state=Job.CANCELLING, message="being stopped on request")
    observe(job, Workload(state=shown, message="waits"), now())
    assert job.state in {Job.CANCELLING, *ENDED}
    if job.state == Job.CANCELLING:
        assert job.message == "being stopped on request"


def test_observing_twice_changes_nothing() -> None:
    job, workload = Job(state=Job.PENDING), Workload(state=Workload.RUNNING, restarts=1, slices=[Slice(node="n")])
    observe(job, workload, now())
    once = Job()
    once.CopyFrom(job)
    observe(job, workload, now())
    assert job == once


def test_nodes_are_told_once_each_and_kept_while_there_are_none() -> None:
    job = Job(state=Job.STARTING)
    observe(job, Workload(state=Workload.RUNNING, slices=[Slice(node="a"), Slice(node="b"), Slice(node="a")]), now())
    observe(job, Workload(state=Workload.PENDING), now())
    assert list(job.nodes) == ["a", "b"]


def test_the_rank_that_failed_is_told_rather_than_the_workload() -> None:
    job = Job(state=Job.RUNNING, generation=1)
    note_failure(job, 1, failure("ValueError: no", rank=3, log_tail=["a", "b"]))
    observe(job, Workload(state=Workload.FAILED, message="slice 3 failed"), now())
    assert (job.error.message, job.error.rank, list(job.error.log_tail)) == ("ValueError: no", 3, ["a", "b"])


def test_a_rank_that_tells_after_the_end_is_still_heard_once() -> None:
    job = Job(state=Job.RUNNING, generation=1)
    observe(job, Workload(state=Workload.FAILED, message="slice 3 failed"), now())
    assert job.error.message == "slice 3 failed"
    note_failure(job, 1, failure("ValueError: no", rank=3, log_tail=["a"]))
    note_failure(job, 1, failure("connection reset", rank=0, log_tail=["b"]))
    assert job.error.message == "ValueError: no"


@pytest.mark.parametrize("generation", [1, 3])
def test_the_failure_of_another_generation_is_not_the_jobs(generation: int) -> None:
    job = Job(state=Job.RUNNING, generation=2)
    note_failure(job, generation, failure("old", log_tail=["a"]))
    assert not job.HasField("error")


def test_success_forgets_what_failed_on_the_way() -> None:
    job = Job(state=Job.RUNNING, error=failure("once"), package="sha256:x", recipe=Recipe(name="r"))
    observe(job, Workload(state=Workload.SUCCEEDED), now())
    assert (job.state, job.HasField("error"), job.progress.fraction) == (Job.SUCCEEDED, False, 1.0)


@pytest.mark.parametrize(
    ("job", "state"),
    [
        (Job(state=Job.CANCELLING), Job.CANCELLED),
        (Job(state=Job.RUNNING), Job.FAILED),
        (Job(state=Job.RUNNING, package="sha256:x"), Job.SUCCEEDED),
    ],
)
def test_a_job_without_its_workload_ends(job: Job, state: Job.State.ValueType) -> None:
    end_without_workload(job, now())
    assert job.state == state
    assert job.HasField("end_time")
    assert (job.error.message != "") == (state != Job.SUCCEEDED)


@pytest.mark.parametrize("state", sorted(ENDED))
def test_what_is_over_stays_as_it_is(state: Job.State.ValueType) -> None:
    job = Job(state=state, message="over")
    end_without_workload(job, now())
    refuse(job, "no", now())
    assert job == Job(state=state, message="over")
