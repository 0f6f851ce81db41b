"""Servers that hang, leak or keep answers: found out, replaced, and nobody's call is lost; each with its control."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from lepton.golden import Golden, Outcome, check
from services.agent.replica_settings import ReplicaSettings
from services.agent.replica_state import ReplicaFailed, ReplicaState
from services.agent.served_model import ServedModel
from services.agent.triton_memory import Growth, LeakLimit, group_memory
from services.inference.triton_repository import ServingOptions
from tests.harness.serving import Replica, replica, served_model
from tests.harness.wait import until

integration = pytest.mark.integration
PROGRAM = "1/model.py"
LEAK = LeakLimit(growth_bytes=24 << 20, readings=2, min_age_s=0.2)
QUICK = ReplicaSettings(
    check_interval_s=0.2, check_s=5.0, start_s=20, load_s=20, memory_interval_s=0.1, leak=LEAK, quiet_s=0.5
)


def patched(model: ServedModel, old: str, new: str) -> ServedModel:
    """The model with another program."""
    program = model.files[PROGRAM]
    assert isinstance(program, bytes)
    assert old.encode() in program
    return ServedModel(
        name=model.name,
        files={**model.files, PROGRAM: program.replace(old.encode(), new.encode(), 1)},
        golden=model.golden,
    )


START = '        config = json.loads(args["model_config"])\n'
RUN = "        answers: list[Any] = [None] * len(requests)\n"
HANGS = f"{START}        import time; time.sleep(3600)\n"
LEAKS = f"{RUN}        self.__dict__.setdefault('kept', []).append(bytearray(os.urandom(1 << 20) * 2))\n"


def leaking() -> ServedModel:
    model = patched(
        served_model("demo.digits", ServingOptions(max_queue_delay_us=0)), "import json\n", "import json\nimport os\n"
    )
    return patched(model, RUN, LEAKS)


@integration
async def test_a_model_that_hangs_while_it_loads_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    hung = patched(served_model("demo.digits"), START, HANGS)
    settings = ReplicaSettings(load_s=1.5, restarts=1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with replica(tmp_path, [hung], settings) as running:
        assert running.life is not None
        with pytest.raises(ReplicaFailed, match="load demo.digits: DEADLINE_EXCEEDED"):
            await asyncio.wait_for(running.life, 60)
    assert running.replica.pid is None
    assert loop.time() - began >= 2 * 1.5, "each of its two servers got its whole deadline"
    assert running.count(ReplicaState.STARTING) == 2


@integration
async def test_triton_itself_would_wait_for_ever(tmp_path: Path) -> None:
    """The control: without our deadline the load that hangs neither ends nor fails."""
    hung = patched(served_model("demo.digits"), START, HANGS)
    async with replica(tmp_path, [hung], ReplicaSettings(load_s=3600)) as running:
        log = tmp_path / "triton.log"
        await until(lambda: log.exists() and b"loading: demo" in log.read_bytes(), 20)
        assert running.life is not None
        done, _ = await asyncio.wait({running.life}, timeout=2.5)
        assert not done
        assert running.count(ReplicaState.STARTING) == 1


@integration
async def test_without_probes_nobody_would_notice_a_server_that_is_stopped(tmp_path: Path) -> None:
    """The control of the next test, and of test_what_died_or_hangs_is_replaced_by_a_proven_server_elsewhere."""
    model = served_model("demo.digits")
    async with replica(tmp_path, [model], ReplicaSettings(check_interval_s=3600)) as running:
        await running.ready()
        assert running.replica.pid is not None
        psutil.Process(running.replica.pid).children()[0].send_signal(signal.SIGSTOP)
        async with grpc.aio.insecure_channel(running.events[-1].endpoints["grpc"]) as channel:
            verdict = await check(channel, "demo.digits", model.golden, deadline_s=1.0)
        assert verdict.outcome is Outcome.UNREACHABLE
        assert running.state is ReplicaState.READY


@integration
async def test_a_server_that_is_stopped_while_it_loads_is_replaced_within_the_deadline(tmp_path: Path) -> None:
    slow = patched(served_model("demo.digits"), START, f"{START}        import time; time.sleep(0.5)\n")
    settings = replace(QUICK, load_s=3.0)
    before = {each.pid for each in psutil.Process().children(recursive=True)}

    def server() -> psutil.Process | None:
        found = (each for each in psutil.Process().children(recursive=True) if each.pid not in before)
        return next((each for each in found if each.name() == "tritonserver"), None)

    async with replica(tmp_path, [slow], settings) as running:
        await until(
            lambda: (tmp_path / "triton.log").exists() and b"loading: demo" in (tmp_path / "triton.log").read_bytes(),
            20,
        )
        first = server()
        assert first is not None
        first.send_signal(signal.SIGSTOP)
        await running.ready()
        assert "DEADLINE_EXCEEDED" in running.events[1].detail
        assert running.events[-1].restarts >= 1
        assert is_gone(first)


@integration
async def test_a_dead_stub_is_noticed_although_answers_are_kept(tmp_path: Path) -> None:
    model = served_model("demo.digits", ServingOptions(response_cache=True))
    async with replica(tmp_path, [model], QUICK) as running:
        await running.ready()
        kill_stub(running)
        await running.ready(times=2)


@integration
async def test_the_same_request_again_and_again_would_notice_nothing(tmp_path: Path) -> None:
    """The control: with one and the same probe, the cache answers for the dead stub."""
    model = served_model("demo.digits", ServingOptions(response_cache=True))
    always = Always(inputs=model.golden.inputs, outputs=model.golden.outputs, max_batch=model.golden.max_batch)
    same = ServedModel(name=model.name, files=model.files, golden=always)
    async with replica(tmp_path, [same], QUICK) as running:
        await running.ready()
        await until(lambda: len(ASKED) > 0)
        kill_stub(running)
        seen = len(ASKED)
        await until(lambda: len(ASKED) > seen + 5, 30)
        assert running.count(ReplicaState.READY) == 1


class Always(Golden):
    """Golden samples that are always asked in the same order."""

    def shuffled(self, rows: int, random: random.Random) -> "Always":
        ASKED.append(rows)
        return self.head(1)


ASKED: list[int] = []


def kill_stub(running: Replica) -> None:
    assert running.replica.pid is not None
    stubs = [each for each in psutil.Process(running.replica.pid).children(recursive=True) if "stub" in each.name()]
    stubs[0].kill()


@integration
async def test_a_leaking_server_is_replaced_and_no_call_is_lost(tmp_path: Path) -> None:
    async with replica(tmp_path, [leaking()], QUICK) as running, callers(running) as failures:
        await running.ready()
        assert running.replica.pid is not None
        first = psutil.Process(running.replica.pid)
        await running.ready(times=2, deadline_s=60)
        # What was replaced is stopped once nobody asks it any more.
        await until(lambda: is_gone(first), 30)
        assert running.count(ReplicaState.STARTING) == 1, "it was never without a server"
        assert all(event.restarts == 0 for event in running.events), "a replacement is no failure"
    assert not failures


@integration
@pytest.mark.slow
async def test_stopping_at_once_instead_would_lose_calls(tmp_path: Path) -> None:
    """The control: the old server is ended as soon as its successor is ready, calls or no calls."""
    settings = replace(QUICK, quiet_s=0.0, drain_s=0.0, stop_s=0.0)
    async with replica(tmp_path, [leaking()], settings) as running, callers(running) as failures:
        await until(lambda: bool(failures), 60)
    assert failures


@integration
async def test_a_server_that_does_not_leak_is_left_alone(tmp_path: Path) -> None:
    async with replica(tmp_path, [served_model("demo.digits")], QUICK) as running, callers(running) as failures:
        await running.ready()
        asked = COUNT[0]
        await until(lambda: COUNT[0] > asked + 400, 60)
        assert running.count(ReplicaState.READY) == 1
    assert not failures


COUNT = [0]


@asynccontextmanager
async def callers(running: Replica, count: int = 4) -> AsyncIterator[list[str]]:
    """Calls the replica without a pause, each caller going over to a new server a moment after it is announced."""
    failures: list[str] = []
    await running.ready()

    async def call(number: int) -> None:
        golden = served_model("demo.digits").golden.head(2)
        channel, address = None, ""
        try:
            while True:
                wanted = running.events[-1].endpoints.get("grpc", "") or address
                if wanted != address:
                    await asyncio.sleep(0.05 * number)  # a gateway does not follow at once
                    if channel is not None:
                        await channel.close(grace=5)
                    channel, address = grpc.aio.insecure_channel(wanted), wanted
                assert channel is not None
                verdict = await ask(channel, golden)
                COUNT[0] += 1
                if verdict:
                    failures.append(verdict)
        finally:
            if channel is not None:
                await channel.close()

    tasks = [asyncio.create_task(call(number)) for number in range(count)]
    try:
        yield failures
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ask(channel: grpc.aio.Channel, golden: Golden) -> str:
    return (await check(channel, "demo.digits", golden, deadline_s=10)).detail


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@integration
async def test_the_memory_of_each_model_is_measured(tmp_path: Path) -> None:
    models = [served_model("demo.small"), large("demo.large")]
    async with replica(tmp_path, models, QUICK) as running:
        await running.ready()
        measured = running.events[-1].memory_bytes
        assert running.replica.pid is not None
        whole = group_memory(running.replica.pid)
    assert set(measured) == {"demo.small", "demo.large"}
    assert measured["demo.large"] > 100 << 20 > measured["demo.small"], "the first bears what the server takes once"
    assert sum(measured.values()) < whole


def large(name: str) -> ServedModel:
    """A model whose program takes 100 MB."""
    return patched(served_model(name), START, f"{START}        self._taken = np.ones(100 << 20, np.uint8)\n")


LIMIT = LeakLimit(growth_bytes=100, readings=3, min_age_s=10.0)


def read(*readings: tuple[int, float], limit: LeakLimit = LIMIT) -> Growth:
    growth = Growth(limit=limit, baseline_bytes=1000, started_s=0.0)
    for memory, now in readings:
        growth = growth.read(memory, now)
    return growth


@pytest.mark.parametrize(
    ("readings", "is_leak"),
    [
        (((1101, 20), (1101, 25), (1101, 30)), True),
        (((1100, 20), (1100, 25), (1100, 30)), False),
        (((1101, 20), (1101, 25)), False),
        (((1101, 20), (1000, 25), (1101, 30), (1101, 35)), False),
        (((1101, 1), (1101, 2), (1101, 3)), False),
    ],
)
def test_growth_is_a_leak_when_it_is_large_lasting_and_the_server_is_not_young(readings: Any, is_leak: bool) -> None:
    assert read(*readings).is_leak is is_leak


def test_without_a_limit_nothing_is_a_leak() -> None:
    forever: Callable[[int], tuple[int, float]] = lambda at: (1 << 40, 100.0 + at)  # noqa: E731
    assert not read(*map(forever, range(9)), limit=LeakLimit(growth_bytes=0)).is_leak
