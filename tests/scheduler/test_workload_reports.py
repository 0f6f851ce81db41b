"""What others tell the scheduler about workloads: what admission checks say, and how a workload gets on."""

import asyncio
from time import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.errors import FailedPrecondition, NotFound
from lepton.scheduler.v1 import workload_pb2
from tests.harness.agent import ScriptedAgent
from tests.harness.scheduling import Replica, Workload, pb, until, workload

Check = workload_pb2.AdmissionCheck
NAME = "projects/acme/workloads/job"


def checked(*names: str) -> Workload:
    """A workload that waits for these checks."""
    return workload(1, admission_checks=[Check(name=name) for name in names])


async def says(replica: Replica, check: str, state: Check.State.ValueType, message: str = "") -> Workload:
    """A check speaks, as the trainer passes it on."""
    request = pb.SetAdmissionCheckRequest(name=NAME, check=check, state=state, message=message)
    answer: Workload = await replica.trainer.SetAdmissionCheck(request)
    return answer


async def gets_on(replica: Replica, generation: int = 1, at_s: float = 0.0, samples_per_s: float = 0.0) -> None:
    """The workload reports; `at_s`: when its newest checkpoint was committed."""
    request = pb.ReportWorkloadProgressRequest(name=NAME, generation=generation, samples_per_s=samples_per_s)
    if at_s:
        request.checkpoint_time.FromNanoseconds(int(at_s * 1e9))
    await replica.trainer.ReportWorkloadProgress(request)


async def until_reason(replica: Replica, reason: Workload.PendingReason.ValueType) -> Workload:
    """Wait until the leader has told why it waits."""

    async def is_told() -> bool:
        return (await replica.get("job")).pending_reason == reason

    await until(is_told)
    return await replica.get("job")


async def test_a_workload_starts_once_every_check_agrees(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", checked("budget", "image"))
        waiting = await until_reason(replica, Workload.WAITING_FOR_ADMISSION_CHECK)
        assert waiting.HasField("quota_reserve_time")
        await says(replica, "budget", Check.READY)
        assert (await replica.get("job")).state == Workload.PENDING
        answer = await says(replica, "image", Check.READY, "it is scanned")
        assert [(each.name, each.state) for each in answer.admission_checks] == [
            ("budget", Check.READY),
            ("image", Check.READY),
        ]
        await replica.until_state("job", Workload.RUNNING)


async def test_checks_that_speak_at_once_are_all_heard(replica: Replica) -> None:
    names = [f"check-{at}" for at in range(5)]
    await replica.submit("job", checked(*names))
    await asyncio.gather(*[says(replica, name, Check.READY) for name in names])
    assert {each.state for each in (await replica.get("job")).admission_checks} == {Check.READY}


async def test_a_caller_does_not_answer_its_own_checks(replica: Replica) -> None:
    asked = checked("budget")
    asked.admission_checks[0].state = Check.READY
    created = await replica.submit("job", asked)
    assert [each.state for each in created.admission_checks] == [Check.STATE_UNSPECIFIED]


async def test_a_check_may_reject_for_good(replica: Replica) -> None:
    await replica.submit("job", checked("budget"))
    await says(replica, "budget", Check.REJECTED, "no money left")
    told = await until_reason(replica, Workload.ADMISSION_REJECTED)
    assert "no money left" in told.message


async def test_a_check_may_ask_for_patience_and_the_quota_is_given_back(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", checked("budget"))
        await until_reason(replica, Workload.WAITING_FOR_ADMISSION_CHECK)
        await says(replica, "budget", Check.RETRY)
        told = await until_reason(replica, Workload.BACKING_OFF)
        assert not told.HasField("quota_reserve_time")


async def test_what_a_check_said_already_is_not_written_again(replica: Replica) -> None:
    await replica.submit("job", checked("budget"))
    await says(replica, "budget", Check.REJECTED)
    before = await until_reason(replica, Workload.ADMISSION_REJECTED)
    assert (await says(replica, "budget", Check.REJECTED)).etag == before.etag


async def test_only_checks_of_a_living_workload_can_speak(replica: Replica) -> None:
    with pytest.raises(NotFound, match="WORKLOAD_NOT_FOUND"):
        await says(replica, "budget", Check.READY)
    await replica.submit("job", checked("budget"))
    with pytest.raises(NotFound, match="ADMISSION_CHECK_NOT_FOUND"):
        await says(replica, "other", Check.READY)
    await replica.trainer.CancelWorkload(pb.CancelWorkloadRequest(name=NAME))
    with pytest.raises(FailedPrecondition, match="WORKLOAD_ENDED"):
        await says(replica, "budget", Check.READY)


async def test_progress_is_kept_and_no_news_is_not_written(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(2))
        running = await replica.until_state("job", Workload.RUNNING)
        saved = running.create_time.ToNanoseconds() / 1e9
        await gets_on(replica, at_s=saved, samples_per_s=100.0)
        told = await replica.get("job")
        assert told.checkpoint_time.ToNanoseconds() == pytest.approx(saved * 1e9, abs=1e3)
        assert dict(told.throughput) == {2: 100.0}
        await gets_on(replica, at_s=saved - 5, samples_per_s=101.0)  # an older checkpoint, hardly another speed
        assert (await replica.get("job")).etag == told.etag
        await gets_on(replica, samples_per_s=200.0)
        assert 100.0 < (await replica.get("job")).throughput[2] < 200.0


async def test_progress_of_a_generation_that_is_past_does_not_count(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(1))
        await replica.until_state("job", Workload.RUNNING)
        await gets_on(replica, generation=7, at_s=time(), samples_per_s=100.0)
        told = await replica.get("job")
        assert not told.HasField("checkpoint_time")
        assert not told.throughput


async def test_a_checkpoint_from_the_future_is_one_of_now(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(1))
        await replica.until_state("job", Workload.RUNNING)
        await gets_on(replica, at_s=time() + 1e6)
        latest = Timestamp()
        latest.GetCurrentTime()
        assert (await replica.get("job")).checkpoint_time.ToNanoseconds() <= latest.ToNanoseconds()


async def test_others_may_not_speak_for_a_check(replica: Replica) -> None:
    await replica.submit("job", checked("budget"))
    async with replica.mesh.client("users/nobody") as channel:
        stub = type(replica.admin)(channel)
        with pytest.raises(NotFound, match="the caller may not know of it"):
            await stub.SetAdmissionCheck(pb.SetAdmissionCheckRequest(name=NAME, check="budget", state=Check.READY))
