"""A replica on real Triton: it proves its answers, heals, stops, and leaves no process."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from lepton.golden import check
from services.agent.replica_settings import ReplicaSettings
from services.agent.replica_state import ReplicaFailed, ReplicaState
from services.agent.served_model import ServedModel, materialise
from tests.harness.serving import replica, served_model, triton_tools
from tests.harness.wait import until

pytestmark = pytest.mark.integration
PR_SET_CHILD_SUBREAPER = 36
QUICK = ReplicaSettings(check_interval_s=0.2, check_s=1.0, start_s=20, load_s=20)


def descendants(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def shared_memory_of(agent: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"lepton-triton-{agent}-*"))


@pytest.fixture(autouse=True)
def others() -> None:
    """Notes which processes this one has already, for example the session's etcd: none of a test's business."""
    OTHERS.clear()
    OTHERS.update(process.pid for process in psutil.Process().children(recursive=True))


OTHERS: set[int] = set()


def of_this_test() -> list[psutil.Process]:
    """The processes that came with the running test, parents first."""
    return [process for process in psutil.Process().children(recursive=True) if process.pid not in OTHERS]


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_replica_is_ready_once_golden_inference_passed_and_stops_without_leftovers(tmp_path: Path) -> None:
    model = served_model("demo.digits")
    async with replica(tmp_path, [model], QUICK) as running:
        await running.ready()
        assert running.replica.pid is not None
        family = descendants(running.replica.pid)
        assert len(family) == 3, "the guard, the server and one stub"
        async with grpc.aio.insecure_channel(running.events[-1].endpoints["grpc"]) as channel:
            verdict = await check(channel, "demo.digits", model.golden, deadline_s=5)
        assert verdict.passed
        assert verdict.rows == 16
        running.replica.stop()
        assert running.life is not None
        await asyncio.wait_for(running.life, 15)
    assert [event.state for event in running.events] == ["starting", "ready", "stopping", "stopped"]
    assert all(map(is_gone, family))
    assert not shared_memory_of(os.getpid())


@pytest.fixture
def subreaper() -> Iterator[None]:
    """This process inherits orphans, as the first process of a container does, and nobody waits for them."""
    set_subreaper = ctypes.CDLL(None).prctl
    set_subreaper(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    set_subreaper(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.usefixtures("subreaper")
async def test_a_stop_does_not_wait_for_orphans_that_nobody_collects(tmp_path: Path) -> None:
    """The stop looked for the group until it was gone: below a process that inherits orphans, for ever."""
    async with replica(tmp_path, [served_model("demo.digits")], QUICK) as running:
        await running.ready()
        assert running.replica.pid is not None
        family = descendants(running.replica.pid)
        family[SERVER].kill()  # its stub is nobody's
        await running.ready(times=2)
        running.replica.stop()
        assert running.life is not None
        await asyncio.wait_for(running.life, 15)
    assert not of_this_test(), "what was inherited has been waited for"


GUARD, SERVER, STUB = range(3)


@pytest.mark.parametrize(
    ("victim", "kill"),
    [
        (SERVER, signal.SIGKILL),
        (SERVER, signal.SIGSTOP),
        (STUB, signal.SIGKILL),
        (STUB, signal.SIGSTOP),
        (GUARD, signal.SIGKILL),
    ],
)
async def test_what_died_or_hangs_is_replaced_by_a_proven_server_elsewhere(
    tmp_path: Path, victim: int, kill: signal.Signals
) -> None:
    async with replica(tmp_path, [served_model("demo.digits")], QUICK) as running:
        await running.ready()
        assert running.replica.pid is not None
        family = descendants(running.replica.pid)
        family[victim].send_signal(kill)
        await running.ready(times=2)
        assert all(map(is_gone, family))
        first, second = [event for event in running.events if event.state is ReplicaState.READY]
        assert first.endpoints["grpc"] != second.endpoints["grpc"]
        assert second.restarts == 1


async def test_a_model_that_answers_wrong_is_never_ready(tmp_path: Path) -> None:
    settings = ReplicaSettings(restarts=0)
    async with replica(tmp_path, [served_model("demo.digits", wrong=True)], settings) as running:
        assert running.life is not None
        with pytest.raises(ReplicaFailed, match="mismatched"):
            await asyncio.wait_for(running.life, 30)
    assert running.count(ReplicaState.READY) == 0
    assert running.state is ReplicaState.FAILED


async def test_a_model_that_cannot_load_names_the_cause(tmp_path: Path) -> None:
    model = served_model("demo.digits")
    broken = ServedModel(name=model.name, files={**model.files, "1/model.onnx": b"not onnx"}, golden=model.golden)
    async with replica(tmp_path, [broken], ReplicaSettings(restarts=0)) as running:
        assert running.life is not None
        with pytest.raises(ReplicaFailed, match="INVALID_PROTOBUF"):
            await asyncio.wait_for(running.life, 30)


async def test_a_stop_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    async with replica(tmp_path, [served_model("demo.digits")]) as running:
        await until(lambda: bool(of_this_test()), 10)
        family = of_this_test()
        running.replica.stop()
        assert running.life is not None
        await asyncio.wait_for(running.life, 10)
    assert running.state is ReplicaState.STOPPED
    assert all(map(is_gone, family))


AGENT = """
import asyncio, sys
from pathlib import Path
from services.agent.triton_replica import TritonReplica
from tests.harness.serving import served_model, triton_tools

async def observe(event):
    print(event.state, event.endpoints.get("grpc", ""), flush=True)

replica = TritonReplica(
    tools=triton_tools(), directory=Path(sys.argv[1]), models=[served_model("demo.digits")], observe=observe
)
asyncio.run(replica.run())
"""


async def test_an_agent_killed_with_sigkill_takes_server_and_stub_with_it(tmp_path: Path) -> None:
    await kill_an_agent(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(20))
async def test_no_stub_waits_for_ever_for_a_lock_that_its_server_held(tmp_path: Path, attempt: int) -> None:
    """A server killed in the middle of a request may hold a lock in shared memory, and its stub then never ends."""
    await kill_an_agent(tmp_path, requests=8, after_s=attempt * 0.01)


async def kill_an_agent(folder: Path, *, requests: int = 0, after_s: float = 0.0) -> None:
    """Kills a serving agent while `requests` callers ask its server, and expects its whole family gone."""
    triton_tools()
    agent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        AGENT,
        str(folder),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert agent.stdout is not None
    async with asyncio.timeout(30):
        while not (line := await agent.stdout.readline()).startswith(b"ready"):
            assert agent.returncode is None
    family = psutil.Process(agent.pid).children(recursive=True)
    assert len(family) == 3, "the guard, the server and one stub"
    async with grpc.aio.insecure_channel(line.split()[1].decode()) as channel, asyncio.TaskGroup() as callers:
        for _ in range(requests):
            callers.create_task(ask_until_it_fails(channel))
        await asyncio.sleep(after_s)  # another moment in every attempt
        agent.kill()
        await agent.wait()
    await until(lambda: all(map(is_gone, family)), 10)


async def ask_until_it_fails(channel: grpc.aio.Channel) -> None:
    golden = served_model("demo.digits").golden.head(1)
    while (await check(channel, "demo.digits", golden, deadline_s=5)).passed:
        pass


def test_a_repository_path_that_leaves_its_model_is_refused(tmp_path: Path) -> None:
    model = served_model("demo.digits")
    for path in ("../other/config.pbtxt", "/etc/passwd", "1/../../x"):
        evil = ServedModel(name=model.name, files={path: b""}, golden=model.golden)
        with pytest.raises(ValueError, match="leaves the repository"):
            materialise(tmp_path / "repository", [evil])
    with pytest.raises(ValueError, match="leaves the repository"):
        materialise(tmp_path / "repository", [ServedModel(name="..", files={"x": b""}, golden=model.golden)])
