"""How ranks fail on real agents: each class told with its advice, a cause before its victims, a hang with its stack."""

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from chassis.failures import FailureClass, Sighting, first_cause
from lepton.internal.v1 import run_report_pb2
from lepton.scheduler.v1 import program_pb2, workload_pb2
from tests.harness.agents import AgentWorld, agent_world
from tests.harness.wait import until

Slice = workload_pb2.Slice
N1, N2, BLIND = (f"pools/general/nodes/{name}" for name in ("n1", "n2", "blind"))
CGROUP = Path("/sys/fs/cgroup/memory")

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentWorld]:
    async with agent_world(tmp_path_factory.mktemp("failures")) as world:
        await world.start("n1")
        await world.start("n2")
        await world.start("blind", arguments=("-m", "tests.harness.blind_agent"))
        await world.scheduler.joined(N1, N2, BLIND)
        for node in (N1, N2, BLIND):  # their launchers are warm then
            workload, _ = start(world, f"warm-{node[-2:]}", "user", nodes={node: (0,)}, at=1)
            await world.scheduler.reported(workload, 0, Slice.FAILED, deadline_s=150)
        yield world


def start(
    world: AgentWorld,
    name: str,
    way: str,
    *,
    nodes: dict[str, tuple[int, ...]],
    faulty: int = 0,
    at: int = 3,
    hang_s: float = 0.0,
) -> tuple[str, str]:
    """Start a gang that fails; its workload and its job."""
    workload, job = f"projects/acme/workloads/{name}", f"projects/acme/jobs/{name}"
    world.trainer.runs[job] = run_report_pb2.StartRunResponse(spec_json='{"batch_size": 64}', hang_timeout_s=hang_s)
    program = program_pb2.Program(
        torch=program_pb2.TorchProgram(module="tests.harness.ranks.faulty", argv=[way, str(faulty), str(at)], job=job)
    )
    world.scheduler.start(workload, nodes, program)
    return workload, job


async def failure_of(world: AgentWorld, job: str, rank: int) -> run_report_pb2.RunEvent:
    """What the rank's agent told the trainer of its failure."""
    events = world.trainer.events[job, 1, rank]
    await world.trainer.until(lambda: any(event.HasField("failure") for event in events), deadline_s=60)
    return next(event for event in events if event.HasField("failure"))


async def pid_of(world: AgentWorld, job: str, rank: int) -> int:
    """The rank's process, once it has stepped and said so."""
    await world.trainer.until(
        lambda: (
            any(line.startswith("pid ") for line in world.trainer.lines(job, rank))
            and any(event.HasField("pace") for event in world.trainer.events[job, 1, rank])
        )
    )
    return int(next(line for line in world.trainer.lines(job, rank) if line.startswith("pid "))[4:])


def end(world: AgentWorld, workload: str, *nodes: str) -> None:
    for node in nodes:
        world.scheduler.stop(node, workload)


async def ended(world: AgentWorld, workload: str, index: int, *states: Slice.State.ValueType) -> Slice:
    """What the slice's agent said at its end."""
    return await world.scheduler.reported(workload, index, *states, deadline_s=60)


CASES = [
    ("memory", FailureClass.OOM_HOST, "MemoryError", "halve --batch-size (64 -> 32)"),
    ("device", FailureClass.OOM_DEVICE, "CUDA out of memory", "on a device of 79.11 GiB"),
    ("disk", FailureClass.STORAGE, "No space left on device", "free space"),
    ("file", FailureClass.DATA, "images/17.png", "a file is not where"),
    ("user", FailureClass.USER_ERROR, "JSONDecodeError", "lepton jobs logs"),
    ("segv", FailureClass.USER_ERROR, "killed by SIGSEGV", "lepton jobs logs"),
]


@pytest.mark.parametrize(("way", "expected", "words", "advice"), CASES)
async def test_a_failure_is_told_with_its_class_and_what_to_do(
    world: AgentWorld, way: str, expected: FailureClass, words: str, advice: str
) -> None:
    workload, job = start(world, f"fail-{way}", way, nodes={N1: (0,)})
    said = await ended(world, workload, 0, Slice.FAILED)
    assert (said.failure.failure_class, said.failure.step) == (expected, 1)  # of three steps the first was told
    assert words in said.message
    event = await failure_of(world, job, 0)
    assert getattr(event.failure, "class") == expected
    assert (event.failure.node, event.failure.message) == (N1, said.message)
    assert advice in event.failure.advice
    assert event.time == said.failure.time


async def test_an_agent_that_calls_everything_a_user_error_fails_that_test(world: AgentWorld) -> None:
    for way in ("device", "disk"):
        workload, _ = start(world, f"blind-{way}", way, nodes={BLIND: (0,)})
        said = await ended(world, workload, 0, Slice.FAILED)
        assert said.failure.failure_class == FailureClass.USER_ERROR, "the control bites: the class is the judge's"


async def test_a_killed_rank_is_noticed_within_a_second_and_blamed_for_its_victims(world: AgentWorld) -> None:
    """Row 18 of the faults: kill -9 of one rank."""
    workload, job = start(world, "kill", "none", nodes={N1: (0,), N2: (1, 2)}, faulty=-1)
    pid = await pid_of(world, job, 1)
    killed_s = time.time()
    os.kill(pid, signal.SIGKILL)
    said = [await ended(world, workload, index, Slice.FAILED) for index in range(3)]
    noticed_s = said[1].failure.time.ToMicroseconds() / 1e6 - killed_s
    print(f"SIGKILL of a rank noticed after {1000 * noticed_s:.1f} ms")
    assert 0 <= noticed_s < 1
    assert said[1].exit_code == -9
    assert said[1].failure.failure_class == FailureClass.USER_ERROR
    assert {said[index].failure.failure_class for index in (0, 2)} == {FailureClass.COMM_TIMEOUT}
    sightings = [
        Sighting(
            failure_class=each.failure.failure_class,
            noticed_s=each.failure.time.ToMicroseconds() / 1e6,
            step=each.failure.step,
        )
        for each in said
    ]
    assert first_cause(sightings) == 1
    late = [
        Sighting(failure_class=each.failure_class, noticed_s=at)
        for at, each in zip((0.0, 0.1, 0.0), sightings, strict=True)
    ]
    assert first_cause(late) == 1, "also when its end is noticed after theirs"
    assert min(range(3), key=lambda at: late[at].noticed_s) != 1, "the control bites: time alone blames a victim"


async def test_a_rank_that_died_by_itself_has_failed_though_it_is_stopped_at_once(world: AgentWorld) -> None:
    workload, job = start(world, "raced", "none", nodes={N1: (0,)}, faulty=-1)
    os.kill(await pid_of(world, job, 0), signal.SIGKILL)
    await failure_of(world, job, 0)
    end(world, workload, N1)
    said = await ended(world, workload, 0, Slice.FAILED, Slice.STOPPED)
    assert (said.state, said.exit_code) == (Slice.FAILED, -9)


async def test_a_stopped_rank_is_found_to_hang_and_those_that_wait_for_it_are_not_to_blame(world: AgentWorld) -> None:
    workload, job = start(world, "stopped", "none", nodes={N1: (0,), N2: (1,)}, faulty=-1, hang_s=3.0)
    pid = await pid_of(world, job, 1)
    await pid_of(world, job, 0)
    os.kill(pid, signal.SIGSTOP)
    said = await ended(world, workload, 1, Slice.FAILED)
    assert said.failure.failure_class == FailureClass.HANG
    assert "its process is stopped by a signal" in said.message
    assert not said.failure.waited
    victim = await ended(world, workload, 0, Slice.FAILED)
    both = [
        Sighting(
            failure_class=each.failure.failure_class,
            noticed_s=each.failure.time.ToMicroseconds() / 1e6,
            step=each.failure.step,
            waited=each.failure.waited,
        )
        for each in (victim, said)
    ]
    assert both[0].may_be_collateral, victim
    assert first_cause(both) == 1


async def test_a_rank_that_stands_still_leaves_its_stack(world: AgentWorld) -> None:
    workload, job = start(world, "still", "still", nodes={N1: (0,), N2: (1,)}, faulty=1, hang_s=3.0)
    said = await ended(world, workload, 1, Slice.FAILED)
    assert said.failure.failure_class == FailureClass.HANG
    assert "it stands in" in said.message
    assert "stand_still" in said.message
    event = await failure_of(world, job, 1)
    assert any("in stand_still" in line for line in event.failure.log_tail)
    assert "hang_timeout" in event.failure.advice
    end(world, workload, N1)


@pytest.mark.slow
async def test_without_a_watchdog_a_rank_hangs_for_ever(world: AgentWorld) -> None:
    workload, _ = start(world, "deaf", "still", nodes={BLIND: (0,), N1: (1,)}, faulty=0, hang_s=2.0)
    # The other rank, whose agent watches, gives up in the end, though it only waits.
    said = await ended(world, workload, 1, Slice.FAILED)
    assert said.failure.waited
    assert "waits for other ranks" in said.message
    states = {each.state for each in world.scheduler.reports[workload, 1, 0]}
    assert Slice.FAILED not in states, "the control bites: nobody else would have noticed"
    end(world, workload, BLIND)


async def test_ranks_that_do_not_come_to_the_first_collective_are_named(world: AgentWorld) -> None:
    workload, _ = start(world, "absent", "absent", nodes={N1: (0,), N2: (1,)}, faulty=1)
    said = await ended(world, workload, 0, Slice.FAILED)
    assert said.failure.failure_class == FailureClass.COMM_TIMEOUT
    assert "PREFLIGHT_FAILED" in said.message
    assert list(said.failure.suspects) == [1]
    end(world, workload, N2)


@pytest.mark.skipif(not os.access(CGROUP, os.W_OK) or os.geteuid() != 0, reason="needs a memory cgroup of its own")
async def test_a_rank_that_the_kernel_kills_for_its_memory_is_told_as_such(world: AgentWorld) -> None:
    folder = CGROUP / f"lepton-test-{os.getpid()}"
    folder.mkdir()
    launcher = next(each for each in world.agents["n1"].descendants() if "services.agent.launcher" in each.cmdline())
    try:
        (folder / "memory.limit_in_bytes").write_text(str(256 << 20))
        (folder / "cgroup.procs").write_text(str(launcher.pid))  # its ranks begin there
        workload, job = start(world, "killed", "grow", nodes={N1: (0,)})
        said = await ended(world, workload, 0, Slice.FAILED)
        assert (said.exit_code, said.failure.failure_class) == (-9, FailureClass.OOM_HOST), said
        advice = (await failure_of(world, job, 0)).failure.advice
        assert "the rank peaked at" in advice
        assert "of 0.25 GiB" in advice
    finally:
        await until(lambda: _emptied(folder))
        folder.rmdir()


def _emptied(folder: Path) -> bool:
    """Send all that is left in a cgroup (the launcher, the store of the gang) back to the root."""
    for pid in (folder / "cgroup.procs").read_text().split():
        with suppress(OSError):
            (CGROUP / "cgroup.procs").write_text(pid)
    return not (folder / "cgroup.procs").read_text()
