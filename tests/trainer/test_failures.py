"""What is kept of a job's failures, whoever tells them and in whatever order."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.failures import FailureClass as Class
from lepton.internal.v1.run_report_pb2 import RankFailure
from lepton.scheduler.v1.workload_pb2 import FailureRecord, Slice, Workload
from lepton.trainer.v1.job_pb2 import Job, JobError
from services.trainer import failures
from services.trainer.failures import MOST, class_named, note_failure, note_generation, of_rank
from services.trainer.lifecycle import observe


def at(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(int(seconds * 1e6))
    return stamp


def told(
    rank: int, failure_class: str, when: float, *, generation: int = 1, message: str = "no", step: int = 0
) -> JobError:
    failure = RankFailure(
        exit_code=1, message=message, log_tail=["a", "b"], node=f"n{rank}", advice="do this", step=step
    )
    setattr(failure, "class", failure_class)
    return of_rank(failure, rank, generation, at(when))


def record(failure_class: str, *, slice_: int = 0, generation: int = 1, message: str = "gone") -> FailureRecord:
    return FailureRecord(
        failure_class=failure_class, slice=slice_, node=f"n{slice_}", generation=generation, message=message
    )


def kind_of(error: JobError) -> str:
    return JobError.Class.Name(getattr(error, "class"))


def running(generation: int = 1) -> Job:
    return Job(state=Job.RUNNING, generation=generation)


def test_everything_that_an_agent_tells_is_there_at_once() -> None:
    job = running()
    note_failure(job, 1, told(3, Class.OOM_DEVICE, 5.0, message="CUDA out of memory", step=12))
    error = job.error
    assert (kind_of(error), error.rank, error.node, error.generation) == ("OOM_DEVICE", 3, "n3", 1)
    assert (error.exit_code, list(error.log_tail), error.advice, error.step) == (1, ["a", "b"], "do this", 12)
    assert error.time == at(5.0)
    assert job.message == "rank 3 on n3 failed (OOM_DEVICE): CUDA out of memory"
    assert list(job.failures) == [error]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_cause_is_shown_and_not_its_victims_in_whatever_order_they_are_told(order: tuple[int, ...]) -> None:
    job = running()
    all_of = [told(0, Class.COMM_TIMEOUT, 4.9), told(1, Class.USER_ERROR, 5.0), told(2, Class.COMM_TIMEOUT, 4.8)]
    for number in order:
        note_failure(job, 1, all_of[number])
    assert (job.error.rank, [each.rank for each in job.failures]) == (1, [1])


def test_if_the_first_were_blamed_a_victim_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "first_cause", lambda sightings: 0)
    job = running()
    note_failure(job, 1, told(0, Class.COMM_TIMEOUT, 4.9))
    note_failure(job, 1, told(1, Class.USER_ERROR, 5.0))
    assert job.error.rank == 0


def test_the_history_keeps_one_of_each_generation_and_the_output_of_the_newest() -> None:
    job = running()
    for generation in range(1, MOST + 4):
        job.generation = generation
        note_failure(job, generation, told(0, Class.USER_ERROR, float(generation), generation=generation))
    assert [each.generation for each in job.failures] == list(range(4, MOST + 4))
    assert [bool(each.log_tail) for each in job.failures] == [False] * (MOST - 1) + [True]


def test_what_the_scheduler_says_of_a_lost_node_goes_before_what_the_survivors_say() -> None:
    job = running()
    note_failure(job, 1, told(0, Class.COMM_TIMEOUT, 5.0))
    note_generation(job, record(Class.NODE_LOST, slice_=1), at(15.0))
    assert (kind_of(job.error), job.error.rank, job.error.node) == ("NODE_LOST", 1, "n1")
    note_failure(job, 1, told(2, Class.COMM_TIMEOUT, 5.1))  # late
    assert kind_of(job.error) == "NODE_LOST"
    assert len(job.failures) == 1


def test_what_a_ranks_agent_says_is_not_replaced_by_the_same_in_fewer_words() -> None:
    job = running()
    note_generation(job, record(Class.USER_ERROR), at(5.0))
    note_failure(job, 1, told(0, Class.USER_ERROR, 5.0, message="ValueError: no"))
    note_generation(job, record(Class.USER_ERROR), at(6.0))
    assert (job.error.message, list(job.error.log_tail)) == ("ValueError: no", ["a", "b"])


def test_a_preempted_generation_is_remembered_and_is_no_error() -> None:
    job = running()
    workload = Workload(state=Workload.PENDING, slices=[Slice(node="n0")], failures=record(Class.PREEMPTED))
    observe(job, workload, at(5.0))
    assert job.state == Job.PENDING
    assert [kind_of(each) for each in job.failures] == ["PREEMPTED"]
    assert not job.HasField("error")


def test_a_cancelled_job_says_so() -> None:
    job = Job(state=Job.CANCELLING, generation=2)
    note_failure(job, 2, told(0, Class.USER_ERROR, 1.0, generation=2))
    observe(job, Workload(state=Workload.CANCELLED), at(5.0))
    assert (job.state, kind_of(job.error), job.error.generation) == (Job.CANCELLED, "CANCELLED", 2)


def test_a_failed_job_has_the_error_of_its_last_generation() -> None:
    job = running(2)
    failed = Workload(state=Workload.FAILED, message="slice 1 failed", failures=record(Class.DATA, generation=2))
    observe(job, failed, at(5.0))
    assert (job.state, kind_of(job.error), job.error.message) == (Job.FAILED, "DATA", "gone")


def test_observing_twice_adds_nothing() -> None:
    job = running()
    workload = Workload(state=Workload.PENDING, failures=record(Class.NODE_LOST))
    observe(job, workload, at(5.0))
    once = Job()
    once.CopyFrom(job)
    observe(job, workload, at(6.0))
    assert job == once


def test_stragglers_are_of_jobs_that_run() -> None:
    job = running()
    job.stragglers.add(rank=1)
    observe(job, Workload(state=Workload.FAILED, message="x"), at(5.0))
    assert not job.stragglers


def test_a_class_that_is_not_known_here_is_the_programs_own_fault() -> None:
    assert class_named("QUANTUM") == class_named("") == JobError.USER_ERROR
    assert class_named("HANG") == JobError.HANG
