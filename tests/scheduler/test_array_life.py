"""Arrays from submission to the end: the real scheduler and the real agent's tasks, processes and all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from chassis.kv import KV
from lepton.errors import InvalidArgument, Unavailable
from lepton.internal.v1 import node_session_pb2
from lepton.scheduler.v1 import program_pb2, resources_pb2, workload_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from services.scheduler import keys
from tests.harness.array_agent import ArrayAgent, array_agent
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, config, replica_of, start_replica
from tests.harness.wait import until

Workload = workload_pb2.Workload
pytestmark = pytest.mark.integration
NAME = "projects/acme/workloads/a"


def array(tasks: int, *argv: str, at_once: int = 0, cpu_milli: int = 1000, **fields: object) -> Workload:
    """An array of processes."""
    made = Workload(kind=Workload.BATCH, **fields)  # type: ignore[arg-type]
    made.groups.add(
        name="task",
        min_count=1,
        max_count=at_once,
        resources=resources_pb2.Resources(cpu_milli=cpu_milli),
        program=program_pb2.Program(process=program_pb2.ProcessProgram(argv=argv)),
    )
    made.array.task_count = tasks
    return made


def script(folder: Path, line: str = "") -> tuple[str, ...]:
    """A task that writes down that it has run."""
    return "sh", "-c", f"echo $LEPTON_ARRAY_INDEX >> {folder}/ran; {line}"


def ran(folder: Path) -> list[int]:
    """The indices of the tasks that have run, in order."""
    path = folder / "ran"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


@pytest.fixture
async def agent(replica: Replica, tmp_path: Path) -> AsyncIterator[ArrayAgent]:
    async with array_agent(replica, tmp_path) as agent:
        yield agent


async def test_every_task_runs_once_and_is_counted(replica: Replica, agent: ArrayAgent, kv: KV, tmp_path: Path) -> None:
    await replica.submit("a", array(40, *script(tmp_path), at_once=6, cpu_milli=10))
    ended = await replica.until_state("a", Workload.SUCCEEDED, 60)
    assert ran(tmp_path) == [*range(40)]
    counts = ended.array
    assert (counts.succeeded, counts.failed, counts.running, counts.waiting) == (40, 0, 0, 0)
    assert ended.generation == 1
    assert not ended.slices
    assert not (await kv.list(keys.ASSIGNMENTS)).entries
    assert not (await kv.list(keys.STATUSES)).entries


async def test_failed_tasks_are_tried_again_and_told_by_their_index(
    replica: Replica, agent: ArrayAgent, tmp_path: Path
) -> None:
    line = f"case $LEPTON_ARRAY_INDEX in 13) exit 4;; 15) test $(grep -c 15 {tmp_path}/ran) = 2;; esac"
    made = array(6, *script(tmp_path, line), max_restarts=1)
    made.array.first_index = 12
    await replica.submit("a", made)
    ended = await replica.until_state("a", Workload.FAILED, 60)
    assert ran(tmp_path) == [12, 13, 13, 14, 15, 15, 16, 17]
    assert (ended.array.succeeded, ended.array.failed, list(ended.array.failed_runs)) == (5, 1, [13, 1])
    (failure,) = ended.array.failures
    assert (failure.index, failure.exit_code, failure.node) == (13, 4, agent.name)
    assert "1 of 6 tasks failed" in ended.message


async def test_a_cancelled_array_stops_all_of_its_tasks(replica: Replica, agent: ArrayAgent) -> None:
    await replica.submit("a", array(50, "sleep", "600", at_once=3))
    await replica.until_state("a", Workload.RUNNING)
    await until(lambda: agent.tasks._live == 3)
    await replica.trainer.CancelWorkload(pb.CancelWorkloadRequest(name=NAME, grace_s=1))
    ended = await replica.until_state("a", Workload.CANCELLED, 30)
    assert agent.tasks.is_idle
    assert (ended.array.running, ended.array.waiting, ended.array.succeeded) == (0, 0, 0)


async def test_an_agent_that_leaves_in_good_order_gives_its_tasks_back(
    replica: Replica, agent: ArrayAgent, tmp_path: Path
) -> None:
    await replica.submit("a", array(4, *script(tmp_path, f"test -e {tmp_path}/go || exec sleep 600")))
    await until(lambda: len(ran(tmp_path)) == 4, 30)
    (tmp_path / "go").touch()
    async with array_agent(replica, tmp_path, "n2"):
        await agent.leave()
        ended = await replica.until_state("a", Workload.SUCCEEDED, 60)
    assert ran(tmp_path) == sorted([0, 1, 2, 3] * 2)
    assert ended.array.failed == 0


async def test_tasks_go_on_while_their_agent_has_no_connection(
    replica: Replica, agent: ArrayAgent, tmp_path: Path
) -> None:
    await replica.submit("a", array(30, *script(tmp_path, "sleep 0.1"), at_once=4))
    await until(lambda: len(ran(tmp_path)) >= 4, 30)
    for _ in range(3):
        (session,) = replica.scheduler.sessions
        if session.stream is not None:
            session.stream.cut(Unavailable("UNREACHABLE"))
        before = len(ran(tmp_path))
        await until(lambda at=before: len(ran(tmp_path)) > at, 30)  # type: ignore[misc]
    await replica.until_state("a", Workload.SUCCEEDED, 60)
    assert ran(tmp_path) == [*range(30)]


async def test_a_node_that_cannot_renew_its_session_kills_its_tasks_and_they_run_again(
    replica: Replica, agent: ArrayAgent, tmp_path: Path
) -> None:
    await replica.submit("a", array(3, *script(tmp_path, f"test -e {tmp_path}/go || exec sleep 600")))
    await until(lambda: len(ran(tmp_path)) == 3, 30)
    first = {each.pid for each in psutil.Process().children(recursive=True) if each.name() == "sleep"}
    renew, agent.session._renew = agent.session._renew, lambda _: None  # type: ignore[method-assign, assignment]
    await until(lambda: not any(map(psutil.pid_exists, first)), 30)
    agent.session._renew = renew  # type: ignore[method-assign]
    (tmp_path / "go").touch()
    ended = await replica.until_state("a", Workload.SUCCEEDED, 60)
    assert set(ran(tmp_path)) == {0, 1, 2}
    assert len(ran(tmp_path)) >= 6
    assert (ended.array.succeeded, ended.array.failed) == (3, 0)


async def test_a_more_urgent_workload_gets_the_places_of_some_tasks(
    replica: Replica, agent: ArrayAgent, kv: KV, tmp_path: Path
) -> None:
    """They stop, the others go on under another generation, and all have run in the end."""
    await replica.submit("a", array(6, *script(tmp_path, f"test -e {tmp_path}/go || exec sleep 600")))
    await until(lambda: len(ran(tmp_path)) == 4, 30)
    ledger = replica.scheduler.ledger
    await until(lambda: all(each.state >= 3 for each in ledger.assignments[NAME][1].value.slices))
    entry = await kv.get(f"{keys.WORKLOADS}acme/a")
    assert entry is not None
    document = Workload.FromString(entry.value)
    document.assign_time.seconds -= 1000  # it has run for long enough to be stopped
    await kv.put(entry.key, document.SerializeToString())
    urgent = array(2, *script(tmp_path), priority=10)
    await replica.submit("urgent", urgent)
    await replica.until_state("urgent", Workload.SUCCEEDED, 60)
    (tmp_path / "go").touch()
    ended = await replica.get("a")
    assert ended.generation == 2
    await replica.trainer.CancelWorkload(pb.CancelWorkloadRequest(name=NAME, grace_s=1))
    ended = await replica.until_state("a", Workload.CANCELLED, 30)
    assert ended.array.failed == 0


async def test_another_leader_goes_on_with_an_array_where_the_first_was(tmp_path: Path) -> None:
    """The leader dies at several moments; every task runs once, and nothing that has ended is lost."""
    async with MemoryKV() as kv, AsyncExitStack() as stack:
        first = await start_replica(kv, config("one"))
        await first.create_pool()
        second = await stack.enter_async_context(replica_of(kv, config("two")))
        await stack.enter_async_context(array_agent(second, tmp_path))  # its session is not with the one that dies
        await second.submit("a", array(60, *script(tmp_path, "sleep 0.05"), at_once=4))
        await until(lambda: len(ran(tmp_path)) > 10, 60)
        await first.kill()
        ended = await second.until_state("a", Workload.SUCCEEDED, 60)
        assert ran(tmp_path) == [*range(60)]
        assert ended.array.succeeded == 60


async def test_a_repeated_and_a_late_report_change_nothing(replica: Replica, agent: ArrayAgent, tmp_path: Path) -> None:
    await replica.submit("a", array(8, *script(tmp_path, "sleep 0.1"), at_once=2))
    await until(lambda: len(ran(tmp_path)) > 2, 30)
    session = next(iter(replica.scheduler.sessions))
    late = node_session_pb2.TaskReport(workload=NAME, generation=1, sequence=10_000)
    late.states.ended.add(position=0, serial=1, state=workload_pb2.Slice.FAILED, message="not true any more")
    late.states.succeeded.extend([7, 1, 1])  # never placed under this serial
    conversations = [each for each in asyncio.all_tasks() if "TaskReports.run" in each.get_coro().__qualname__]  # type: ignore[union-attr]
    reports = conversations[0].get_coro().cr_frame.f_locals["self"]  # type: ignore[union-attr]

    def running() -> set[int]:
        tables = (record.tasks for record in reports._ledger.on_node(session.node))
        return {each.index for table in tables if table is not None for each in table.running(session.node)}

    await until(lambda: 0 not in running(), 30)  # a report about its place, which it has left
    reports.take(session, late)
    reports.take(session, late)
    ended = await replica.until_state("a", Workload.SUCCEEDED, 60)
    assert ran(tmp_path) == [*range(8)]
    assert ended.array.succeeded == 8


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda each: setattr(each, "kind", Workload.SERVING), "kind"),
        (lambda each: setattr(each.groups[0], "min_count", 2), "min_count"),
        (lambda each: each.groups[0].program.torch.SetInParent(), "program"),
        (lambda each: setattr(each.topology, "level", "rack"), "topology"),
        (lambda each: setattr(each.array, "task_count", 0), "task_count"),
        (lambda each: setattr(each.array, "task_count", 200_000), "task_count"),
    ],
)
async def test_what_cannot_be_an_array_is_refused(replica: Replica, change: object, field: str) -> None:
    made = array(3, "true")
    change(made)  # type: ignore[operator]
    with pytest.raises(InvalidArgument) as caught:
        await replica.submit("a", made)
    assert field in str(caught.value)
