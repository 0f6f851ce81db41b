"""Failures of real jobs on a real control plane: told at once, paid for by their class, and kept away from bad nodes.

The rows are those of the faults that training must survive: 18 a killed rank, 19 a killed agent, 25 a preemption.
"""

import asyncio
import io
import os
import signal
import tarfile
import time
from collections.abc import AsyncIterator, Callable

import psutil
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from lepton.client import AsyncClient
from lepton.scheduler.v1.queue_pb2 import Queue
from lepton.trainer.v1.job_pb2 import CodeBundle, FailurePolicy, Job, JobError, Workers
from tests.harness.training_stack import PROJECT, TrainingStack
from tests.harness.wait import until
from tests.training.conftest import FAST

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]

SCRIPT = b"""
import os, pathlib, sys, time
import torch
from lepton import train

WAY, STEPS, PID_FILE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
session = train.session()
pathlib.Path(f"{PID_FILE}.{session.environment.generation}.{train.rank()}").write_text(str(os.getpid()))
session.gang.join()
saved = train.resume()
start = saved.position.step if saved else 0
for step in range(start + 1, STEPS + 1):
    if WAY == "straggle":
        until = time.process_time() + (0.06 if train.rank() == 1 else 0.01)
        while time.process_time() < until:
            pass
    session.gang.sum([1.0])
    train.report({"loss": 1.0 / step}, step=step)
    if step == 5 and train.rank() == 1 and WAY == "device":
        told = "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.0 GiB"
        raise torch.OutOfMemoryError("CUDA out of memory. " + told)
    if step == 5 and train.rank() == 1 and WAY == "value":
        raise ValueError(f"sample {step} is no number")
    time.sleep(0.02)
session.gang.leave()
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TrainingStack]:
    async with TrainingStack(tmp_path_factory.mktemp("failures") / "home", settings=FAST) as opened:
        await opened.join("n1", "n2", "n3", devices=1)
        yield opened


async def submit(
    stack: TrainingStack, client: AsyncClient, job_id: str, way: str, steps: int = 100_000, **fields: object
) -> Job:
    """A job of the user's own code, of two ranks."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo("train.py")
        info.size = len(SCRIPT)
        archive.addfile(info, io.BytesIO(SCRIPT))
    artifact = await client.artifacts.upload(packed.getvalue())
    bundle = CodeBundle(
        digest=artifact.digest, entry_point="train.py", argv=[way, str(steps), str(stack.home.root / job_id)]
    )
    return await client.jobs.create(job_id, Job(bundle=bundle, **{"workers": Workers(count=2), **fields}))  # type: ignore[arg-type]


async def seen(client: AsyncClient, job_id: str, is_so: Callable[[Job], object], deadline_s: float = 120) -> Job:
    """The job as soon as it is as wished."""
    async with asyncio.timeout(deadline_s):
        async for job in client.jobs.watch(job_id):
            if is_so(job):
                return job
    raise AssertionError("a watch has no end")


async def steps(client: AsyncClient, job_id: str, generation: int, least: int = 3) -> Job:
    """The job once its generation has made some steps."""
    return await seen(client, job_id, lambda job: job.generation == generation and job.progress.step >= least)


def kinds(job: Job) -> list[str]:
    return [JobError.Class.Name(getattr(each, "class")) for each in job.failures]


def rank_process(stack: TrainingStack, job_id: str, rank: int, generation: int = 1) -> tuple[str, psutil.Process]:
    """A rank of a job, and its node."""
    pid = int((stack.home.root / f"{job_id}.{generation}.{rank}").read_text())
    for node in ("n1", "n2", "n3"):
        if any(each.pid == pid for each in stack.below(node)):
            return node, psutil.Process(pid)
    raise AssertionError(f"rank {rank} runs nowhere")


async def cancel(client: AsyncClient, job_id: str) -> Job:
    await client.jobs.cancel(job_id)
    return await seen(client, job_id, lambda job: job.state == Job.CANCELLED)


async def test_row_18_a_killed_rank_is_told_at_once_and_its_gang_goes_on(
    stack: TrainingStack, client: AsyncClient
) -> None:
    await submit(stack, client, "killed", "none", max_restarts=3)
    await steps(client, "killed", 1)
    node, process = rank_process(stack, "killed", 1)
    killed_s = time.time()
    process.kill()
    told = await seen(client, "killed", lambda job: job.failures)
    again = await steps(client, "killed", 2, least=1)
    (failure,) = told.failures
    noticed_s = failure.time.ToMicroseconds() / 1e6 - killed_s
    print(f"noticed after {noticed_s:.3f} s, steps again after {time.time() - killed_s:.3f} s")
    assert noticed_s <= 1.0
    assert (failure.rank, failure.exit_code, failure.generation) == (1, -9, 1)
    assert failure.node.endswith(f"/{node}")
    assert kinds(told) == ["USER_ERROR"]
    assert again.restarts == 1
    assert not again.error.message, "the new generation has not failed"
    over = await cancel(client, "killed")
    assert getattr(over.error, "class") == JobError.CANCELLED
    assert kinds(over) == ["USER_ERROR"]


async def test_row_19_a_killed_agent_takes_its_ranks_along_and_its_node_is_lost(
    stack: TrainingStack, client: AsyncClient
) -> None:
    await submit(stack, client, "lost", "none", max_restarts=0)
    await steps(client, "lost", 1)
    node, process = rank_process(stack, "lost", 1)
    killed_s = time.time()
    keeper = stack._keepers[f"agent-{node}"]
    keeper.cancel()  # nobody starts it again
    await asyncio.gather(keeper, return_exceptions=True)
    stack.kill(f"agent-{node}")
    await until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    died_s = time.time() - killed_s

    async def is_gone() -> bool:
        return f"pools/general/nodes/{node}" not in [each.name async for each in client.nodes.list()]

    await until(is_gone, 60)
    gone_s = time.time() - killed_s
    told = await seen(client, "lost", lambda job: "NODE_LOST" in kinds(job))
    print(f"the rank died after {died_s:.3f} s, the node was missed after {gone_s:.3f} s (leases of 4 s)")
    assert died_s < gone_s
    again = await steps(client, "lost", 2, least=1)
    assert kinds(told) == ["NODE_LOST"]
    assert told.failures[0].node.endswith(f"/{node}")
    assert again.restarts == 0, "a lost node is not the job's failure"
    assert all(not each.endswith(f"/{node}") for each in again.nodes)
    await cancel(client, "lost")
    await stack.join(node, devices=1)


async def test_row_25_a_preempted_job_is_no_failure_and_goes_on(stack: TrainingStack, client: AsyncClient) -> None:
    await client.queues.create("quick", Queue(projects=[f"projects/{PROJECT}"], min_runtime_s=1))
    await submit(stack, client, "gives-way", "none", max_restarts=0)
    await steps(client, "gives-way", 1)
    await submit(stack, client, "urgent", "none", 20, priority=9, expected_duration_s=60)
    told = await seen(client, "gives-way", lambda job: job.failures)
    assert (kinds(told), told.restarts) == (["PREEMPTED"], 0)
    assert not told.error.message
    urgent = await seen(client, "urgent", lambda job: job.state in {Job.SUCCEEDED, Job.FAILED})
    assert urgent.state == Job.SUCCEEDED, urgent
    again = await steps(client, "gives-way", 2, least=1)
    assert again.restarts == 0
    over = await cancel(client, "gives-way")
    assert kinds(over) == ["PREEMPTED"]


async def test_a_job_that_runs_out_of_device_memory_is_tried_once_more_and_then_fails_with_advice(
    stack: TrainingStack, client: AsyncClient
) -> None:
    await submit(stack, client, "too-large", "device", max_restarts=9)
    job = await seen(client, "too-large", lambda job: job.state == Job.FAILED)
    assert kinds(job) == ["OOM_DEVICE", "OOM_DEVICE"]
    assert (job.restarts, job.error.rank, getattr(job.error, "class")) == (1, 1, JobError.OOM_DEVICE)
    assert "halve --batch-size" in job.error.advice
    assert "2.00 GiB more on a device of 8.0 GiB" in job.error.advice
    assert any("OutOfMemoryError" in line for line in job.error.log_tail)


async def test_the_same_failure_at_the_same_step_is_not_tried_a_third_time(
    stack: TrainingStack, client: AsyncClient
) -> None:
    await submit(stack, client, "stubborn", "value", max_restarts=9)
    job = await seen(client, "stubborn", lambda job: job.state == Job.FAILED)
    assert (job.restarts, kinds(job)) == (1, ["USER_ERROR", "USER_ERROR"])
    assert "twice in a row: it is not tried again" in job.message


async def test_a_rank_that_hangs_is_ended_and_its_node_left_out(stack: TrainingStack, client: AsyncClient) -> None:
    policy = FailurePolicy(hang_timeout=Duration(seconds=4))
    await submit(stack, client, "hangs", "none", max_restarts=2, failure_policy=policy)
    await steps(client, "hangs", 1)
    node, process = rank_process(stack, "hangs", 1)
    os.kill(process.pid, signal.SIGSTOP)
    told = await seen(client, "hangs", lambda job: job.failures)
    assert (kinds(told), told.failures[0].rank) == (["HANG"], 1)
    assert "stopped by a signal" in told.failures[0].message
    again = await steps(client, "hangs", 2, least=1)
    assert all(not each.endswith(f"/{node}") for each in again.nodes)
    await cancel(client, "hangs")


async def test_a_rank_that_lags_is_named(stack: TrainingStack, client: AsyncClient) -> None:
    await submit(stack, client, "lags", "straggle", failure_policy=FailurePolicy(hang_timeout=Duration(seconds=60)))
    job = await seen(client, "lags", lambda job: job.stragglers)
    assert [each.rank for each in job.stragglers] == [1]
    assert job.stragglers[0].slowdown > 1.5
    assert job.stragglers[0].node
    await cancel(client, "lags")
