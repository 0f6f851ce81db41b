"""The table of slices, with runners that only wait: what is started, kept, stopped and said."""

import asyncio
import sys
from collections.abc import AsyncIterator
from types import FrameType

import pytest

from lepton.internal.v1 import node_session_pb2 as pb
from lepton.scheduler.v1 import program_pb2, workload_pb2
from services.agent.order import SliceOrder
from services.agent.outbox import Outbox
from services.agent.runner import Ending, SliceControl
from services.agent.slices import Slices

Slice = workload_pb2.Slice
NODE, WORKLOAD = "pools/p/nodes/n1", "projects/acme/workloads/w"


class WaitingRunner:
    """Runs until stopped; fails in a way that nobody foresaw when told to."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []
        self.killed: list[int] = []
        self.is_broken = False

    async def run(self, order: SliceOrder, control: SliceControl) -> Ending:
        self.started.append((order.key.generation, order.key.index))
        if self.is_broken:
            raise RuntimeError("a bug")
        control.running()
        try:
            await control.stop.asked()
        except asyncio.CancelledError:
            self.killed.append(order.key.index)
            raise
        return Ending(state=Slice.STOPPED, message=control.stop.reason)


@pytest.fixture
def runner() -> WaitingRunner:
    return WaitingRunner()


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
async def slices(runner: WaitingRunner, outbox: Outbox) -> AsyncIterator[Slices]:
    async with Slices(node=NODE, runners={"process": runner, "torch": runner}, outbox=outbox) as slices:
        yield slices


def order(
    *indices: int, generation: int = 1, uid: str = "u", argv: str = "true", torch: bool = False
) -> pb.StartSlices:
    program = program_pb2.Program(process=program_pb2.ProcessProgram(argv=[argv]))
    if torch:
        program = program_pb2.Program(torch=program_pb2.TorchProgram(module=argv))
    return pb.StartSlices(
        workload=WORKLOAD,
        workload_uid=uid,
        generation=generation,
        gang_size=len(indices),
        slices=[Slice(index=index, group="g") for index in indices],
        programs={"g": program},
    )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def states(slices: Slices) -> dict[tuple[int, int], Slice.State.ValueType]:
    return {(each.generation, each.slice.index): each.slice.state for each in slices.known()}


async def test_the_same_order_twice_starts_once_and_an_older_one_never(slices: Slices, runner: WaitingRunner) -> None:
    slices.start(order(0, 1, generation=2))
    slices.start(order(0, 1, generation=2))
    slices.start(order(0, generation=1))
    await settle()
    assert runner.started == [(2, 0), (2, 1)]


async def test_a_new_session_stops_what_is_not_listed_and_starts_what_is(slices: Slices, runner: WaitingRunner) -> None:
    slices.start(order(0, 1))
    await settle()
    slices.reconcile([order(1, 2)])
    await settle()
    assert runner.started == [(1, 0), (1, 1), (1, 2)]
    assert states(slices) == {(1, 0): Slice.STOPPED, (1, 1): Slice.RUNNING, (1, 2): Slice.RUNNING}


async def test_an_equal_slice_of_a_newer_generation_is_adopted_and_another_is_not(
    slices: Slices, runner: WaitingRunner
) -> None:
    slices.start(order(0, 1))
    await settle()
    slices.start(order(0, 1, generation=2))
    slices.start(order(0, generation=3, argv="other"))
    await settle()
    assert runner.started == [(1, 0), (1, 1), (3, 0)]
    assert states(slices) == {(2, 0): Slice.RUNNING, (2, 1): Slice.RUNNING, (3, 0): Slice.RUNNING}


async def test_a_rank_of_a_gang_is_never_adopted(slices: Slices, runner: WaitingRunner) -> None:
    slices.start(order(0, 1, torch=True, argv="m"))
    await settle()
    slices.start(order(0, 1, torch=True, argv="m", generation=2))
    await settle()
    assert runner.started == [(1, 0), (1, 1), (2, 0), (2, 1)]


async def test_another_workload_of_the_same_name_is_another_workload(slices: Slices, runner: WaitingRunner) -> None:
    slices.start(order(0))
    await settle()
    slices.reconcile([order(0, uid="v")])
    await settle()
    assert runner.started == [(1, 0), (1, 0)]


async def test_killing_all_forgets_all(slices: Slices, runner: WaitingRunner) -> None:
    slices.start(order(0, 1))
    await settle()
    await slices.kill_all()
    assert runner.killed == [0, 1]
    assert slices.known() == []
    slices.start(order(0))
    await settle()
    assert states(slices) == {(1, 0): Slice.RUNNING}


async def test_a_bug_in_one_slice_fails_that_slice_alone(slices: Slices, runner: WaitingRunner) -> None:
    slices.start(order(0))
    await settle()
    runner.is_broken = True
    slices.start(order(0, uid="v"))
    await settle()
    assert sorted(each.slice.state for each in slices.known()) == [Slice.RUNNING, Slice.FAILED]


async def test_a_program_of_an_unknown_kind_fails(slices: Slices) -> None:
    start = order(0)
    start.programs["g"].triton.SetInParent()
    slices.start(start)
    await settle()
    assert states(slices) == {(1, 0): Slice.FAILED}


async def test_an_order_without_a_name_is_ignored(slices: Slices, runner: WaitingRunner) -> None:
    slices.start(pb.StartSlices(workload="../w", slices=[Slice(index=0)]))
    await settle()
    assert runner.started == []


async def test_a_message_costs_the_same_however_many_slices_have_ended(slices: Slices, outbox: Outbox) -> None:
    """Counted in calls of Python functions, of all that one slice causes from its start to its last acknowledgement."""

    async def calls_of(number: int) -> int:
        counted = 0

        def count(frame: FrameType, event: str, argument: object) -> None:
            nonlocal counted
            counted += event == "call"

        sys.setprofile(count)
        try:
            await one(number)
        finally:
            sys.setprofile(None)
        return counted

    async def one(number: int) -> None:
        message = order(0, uid=f"u{number}")
        message.workload = f"{WORKLOAD}{number}"
        slices.start(message)
        await asyncio.sleep(0)
        slices.stop(pb.StopSlices(workload=message.workload, generation=1, grace_s=1.0))
        while not slices.is_idle:  # noqa: ASYNC110 - in turns with the slice's own task
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # its end is written down
        for state in (Slice.STARTING, Slice.RUNNING, Slice.STOPPED):
            slices.acknowledge(pb.SliceReportAck(workload=message.workload, generation=1, index=0, state=state))

    for number in range(20):
        await one(number)
    few = await calls_of(20)
    for number in range(21, 2300):  # more than are remembered
        await one(number)
    many = await calls_of(2300)
    assert many <= few + 20, f"{few} calls with 20 behind it, {many} with 2,300"
    assert len(slices._entries) <= 2000
    assert slices._entries.keys() == slices._ended_order.keys()
    assert set(slices._of) == {entry.order.gang.workload for entry in slices._entries.values()}
