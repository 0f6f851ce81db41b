"""Tasks of arrays as the agent runs them: real processes of a real warden, batches of orders and of reports."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import psutil
import pytest

from chassis.task_runs import packed, unpacked
from lepton.internal.v1 import node_session_pb2 as pb
from lepton.internal.v1 import tasks_pb2
from lepton.scheduler.v1 import program_pb2, workload_pb2
from services.agent.processes import Warden
from services.agent.tasks import STALE, Tasks
from tests.harness.array_agent import SURROUNDINGS
from tests.harness.wait import until

Slice = workload_pb2.Slice
W = "projects/acme/workloads/a"
SLEEP_BUT_2 = ("sh", "-c", "test $LEPTON_ARRAY_INDEX = 2 || exec sleep 60")

pytestmark = pytest.mark.integration


@pytest.fixture
async def warden() -> AsyncIterator[Warden]:
    async with Warden({"PATH": os.environ["PATH"]}) as warden:
        yield warden


@pytest.fixture
async def tasks(tmp_path: Path, warden: Warden) -> AsyncIterator[Tasks]:
    inherited = {"PATH": os.environ["PATH"]}
    async with Tasks(surroundings=SURROUNDINGS, root=tmp_path / "tasks", inherited=inherited, warden=warden) as tasks:
        yield tasks


def start(
    positions: Iterable[int], *argv: str, serial: int = 1, generation: int = 1, first_index: int = 0, **environment: str
) -> pb.StartTasks:
    runs = packed((each, serial) for each in positions)
    return pb.StartTasks(
        workload=W,
        workload_uid="u1",
        generation=generation,
        tasks=tasks_pb2.NodeTasks(node="pools/general/nodes/n1", runs=runs),
        serial=serial,
        task_count=100,
        first_index=first_index,
        program=program_pb2.ProcessProgram(argv=argv, environment=environment),
    )


class Heard:
    """What the scheduler hears, report by report."""

    def __init__(self, tasks: Tasks, *, acknowledges: bool = True) -> None:
        self.tasks, self.acknowledges = tasks, acknowledges
        self.reports: list[pb.TaskReport] = []
        self.succeeded: list[tuple[int, int]] = []
        self.ended: dict[int, tasks_pb2.TaskEnd] = {}
        self.seen = 0

    def look(self) -> int:
        """Take what there is; how many tasks have ended so far."""
        for each in self.tasks.outbox.take():
            self.reports.append(each)
            self.seen = max(self.seen, each.states.seen_serial)
            self.succeeded += unpacked(each.states.succeeded)
            self.ended |= {end.position: end for end in each.states.ended}
            if self.acknowledges:
                ack = pb.TaskReportAck(workload=each.workload, generation=each.generation, sequence=each.sequence)
                self.tasks.outbox.acknowledge(ack)
        return len(self.succeeded) + len(self.ended)

    async def until_ended(self, count: int) -> None:
        await until(lambda: self.look() >= count, 30)


def alive(command: str) -> list[psutil.Process]:
    own = psutil.Process().children(recursive=True)
    return [each for each in own if each.name() == command and each.status() != psutil.STATUS_ZOMBIE]


async def test_many_tasks_end_well_and_few_reports_tell_of_them(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start(range(100), "true"))
    await heard.until_ended(100)
    assert sorted(heard.succeeded) == [(each, 1) for each in range(100)]
    assert heard.seen == 1
    assert tasks.is_idle
    assert not heard.ended


async def test_each_finds_its_index_and_a_folder_of_its_own(tasks: Tasks, tmp_path: Path) -> None:
    code = (
        "import os; open(os.environ['WHERE'] + '/' + os.environ['LEPTON_ARRAY_INDEX'], 'x').write("
        "os.getcwd() + ' ' + os.environ['LEPTON_ARRAY_COUNT']); open('left', 'w')"
    )
    heard = Heard(tasks)
    tasks.start(start(range(3), sys.executable, "-S", "-c", code, first_index=10, WHERE=str(tmp_path)))
    await heard.until_ended(3)
    assert not heard.ended, heard.ended
    folders = [(tmp_path / str(each)).read_text().split() for each in (10, 11, 12)]
    assert len({folder for folder, _ in folders}) == 3
    assert {count for _, count in folders} == {"100"}
    await until(lambda: not any(Path(folder).exists() for folder, _ in folders), 10)


async def test_a_failure_tells_its_exit_code_and_its_last_words(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start([7], "sh", "-c", "echo so far; echo no such column >&2; exit 3"))
    await heard.until_ended(1)
    assert (heard.ended[7].state, heard.ended[7].exit_code) == (Slice.FAILED, 3)
    assert heard.ended[7].message == "no such column (exit code 3)"


async def test_a_task_that_a_signal_ends_says_which(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start([0], "sh", "-c", "kill -9 $$"))
    await heard.until_ended(1)
    assert (heard.ended[0].exit_code, heard.ended[0].message) == (-9, "killed by SIGKILL")


async def test_a_command_that_does_not_exist_fails_with_its_name(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start(range(2), "no-such-command"))
    await heard.until_ended(2)
    assert {each.exit_code for each in heard.ended.values()} == {127}
    assert "cannot run no-such-command" in heard.ended[0].message


async def test_a_variable_that_is_the_agents_own_is_refused(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start([0], "true", LEPTON_ARRAY_INDEX="7"))
    await heard.until_ended(1)
    assert "is set by the agent" in heard.ended[0].message


async def test_what_was_told_before_is_not_started_again(tasks: Tasks, tmp_path: Path) -> None:
    heard = Heard(tasks)
    order = start([0], "sh", "-c", "echo x >> $WHERE", WHERE=str(tmp_path / "runs"))
    tasks.start(order)
    await heard.until_ended(1)
    tasks.start(order)
    assert heard.look() == 2, "its end is told once more"
    tasks.start(start([0], "sh", "-c", "echo x >> $WHERE", serial=2, WHERE=str(tmp_path / "runs")))
    await heard.until_ended(3)
    assert (tmp_path / "runs").read_text() == "x\nx\n"
    assert heard.succeeded == [(0, 1), (0, 1), (0, 2)]


async def test_an_end_that_is_not_acknowledged_is_said_again(tasks: Tasks) -> None:
    heard = Heard(tasks, acknowledges=False)
    tasks.start(start(range(3), "true"))
    await heard.until_ended(3)
    assert heard.look() == 3
    tasks.outbox.resend()
    assert heard.look() == 6
    heard.acknowledges = True
    tasks.outbox.resend()
    heard.look()
    tasks.outbox.resend()
    assert heard.look() == 9, "and no more once it is"
    await asyncio.wait_for(tasks.outbox.drained(), 10)


async def test_the_tasks_that_are_named_are_stopped(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start([0], "sleep", "60"))
    tasks.start(start([1], "sleep", "60", serial=2))
    await until(lambda: len(alive("sleep")) == 2, 20)
    order = pb.StopSlices(workload=W, generation=1, grace_s=5.0, reason="preempted")
    order.tasks.runs.extend([0, 1, 1])
    tasks.stop_some(order)
    await heard.until_ended(1)
    assert (heard.ended[0].state, heard.ended[0].message) == (Slice.STOPPED, "preempted")
    assert len(alive("sleep")) == 1


async def test_one_that_does_not_heed_the_notice_is_killed_with_all_that_it_started(
    tasks: Tasks, tmp_path: Path
) -> None:
    heard = Heard(tasks)
    script = "trap '' TERM; setsid sleep 61 & sleep 62 & echo up > $WHERE; while :; do wait; done"
    tasks.start(start([0], "sh", "-c", script, WHERE=str(tmp_path / "up")))
    await until((tmp_path / "up").exists, 20)
    tasks.stop(pb.StopSlices(workload=W, generation=1, grace_s=0.2, reason="drained"))
    await heard.until_ended(1)
    assert heard.ended[0].state == Slice.STOPPED
    assert not alive("sleep")


async def test_one_that_never_came_here_is_reported_to_have_stopped(tasks: Tasks) -> None:
    heard = Heard(tasks)
    order = pb.StopSlices(workload=W, generation=3, reason="preempted")
    order.tasks.runs.extend([5, 2, 9])
    tasks.stop_some(order)
    assert heard.look() == 2
    assert [(each.position, each.serial, each.state) for each in heard.ended.values()] == [
        (5, 9, Slice.STOPPED),
        (6, 9, Slice.STOPPED),
    ]


async def test_tasks_go_on_under_the_next_generation(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start(range(2), *SLEEP_BUT_2))
    tasks.start(start([2], *SLEEP_BUT_2, serial=2))
    await until(lambda: len(alive("sleep")) == 2, 20)
    await heard.until_ended(1)
    before = {each.pid for each in alive("sleep")}
    following = start([0, 2], *SLEEP_BUT_2, generation=2)
    following.tasks.runs[:] = [0, 1, 1, 2, 1, 2]
    tasks.start(following)
    heard.look()
    assert heard.reports[-1].generation == 2
    assert heard.succeeded == [(2, 2), (2, 2)], "what had ended is told under the new one"
    order = pb.StopSlices(workload=W, generation=1, reason="resized")
    order.tasks.runs.extend([1, 1, 1])
    tasks.stop_some(order)
    await heard.until_ended(3)
    assert {each.pid for each in alive("sleep")} < before


async def test_reconciling_stops_what_is_not_listed(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start(range(3), "sleep", "60"))
    await until(lambda: len(alive("sleep")) == 3, 20)
    tasks.reconcile([start([1], "sleep", "60")])
    await heard.until_ended(2)
    assert set(heard.ended) == {0, 2}
    assert len(alive("sleep")) == 1


async def test_killing_all_leaves_nothing_and_says_nothing(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start(range(50), "sleep", "60"))
    await until(lambda: len(alive("sleep")) > 5, 20)
    await tasks.kill_all()
    assert not alive("sleep")
    assert tasks.is_idle
    assert heard.look() == 0


async def test_a_stale_generation_is_killed_and_not_reported(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start(range(2), "sleep", "60"))
    await until(lambda: len(alive("sleep")) == 2, 20)
    assert tasks.stop(pb.StopSlices(workload=W, generation=1, reason=STALE))
    await until(lambda: tasks.is_idle, 20)
    assert heard.look() == 0
    assert not alive("sleep")


async def test_the_wardens_death_fails_all_tasks_and_the_next_are_started_by_another(
    tasks: Tasks, warden: Warden
) -> None:
    heard = Heard(tasks)
    tasks.start(start(range(2), *SLEEP_BUT_2))
    await until(lambda: len(alive("sleep")) == 2, 20)
    assert warden._process is not None
    os.kill(warden._process.pid, signal.SIGKILL)
    await heard.until_ended(2)
    assert heard.ended[0].message == "the node's warden has died"
    await until(lambda: not alive("sleep"), 20)
    tasks.start(start([2], *SLEEP_BUT_2, serial=2))
    await heard.until_ended(3)
    assert heard.succeeded == [(2, 2)]
