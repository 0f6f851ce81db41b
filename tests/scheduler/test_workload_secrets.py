"""Workloads that name secrets: let in by the gate, told to auth as they were given to nodes."""

from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any

import pytest

from chassis.clock import SystemClock
from chassis.paging import Pager
from chassis.requests import Requests
from lepton.errors import FailedPrecondition, PermissionDenied
from lepton.internal.v1.ledger_pb2 import Assignment
from lepton.internal.v1.tasks_pb2 import NodeTasks
from lepton.scheduler.v1 import program_pb2, workload_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.workload_pb2 import Workload
from services.scheduler import keys
from services.scheduler.servicer import SchedulerServicer
from services.scheduler.slice_secrets import groups_on, references
from services.scheduler.workload_secrets import WorkloadSecrets
from services.scheduler.workloads import Workloads
from tests.harness.memory_kv import MemoryKV

DB = "projects/acme/secrets/db"
Slice = workload_pb2.Slice


class Gate:
    """Remembers who came, and refuses what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, set[str]]] = []
        self.refuses = False

    async def admit(self, mounts: Iterable[Any], project: str, path: str, taken: Collection[str] = ()) -> None:
        self.asked += [(each.secret, f"{project} {path}", set(taken)) for each in mounts]
        if self.refuses:
            raise PermissionDenied("PERMISSION_DENIED", permission="secrets.use", resource=DB)


def workload(*secrets: str) -> Workload:
    process = program_pb2.ProcessProgram(argv=["true"], environment={"OWN": "1"})
    process.secrets.extend(program_pb2.SecretMount(secret=each, env="TOKEN") for each in secrets)
    made = Workload(kind=Workload.BATCH)
    made.groups.add(name="task", min_count=1, program=program_pb2.Program(process=process))
    return made


@pytest.fixture
async def served() -> AsyncIterator[tuple[SchedulerServicer, Gate]]:
    async with MemoryKV() as kv:
        gate, unused = Gate(), None
        pager = await Pager.open(kv, keys.PAGE_KEY)
        workloads = Workloads(kv, Requests(kv, keys.REQUESTS), pager, SystemClock())
        yield SchedulerServicer(unused, unused, workloads, gate), gate  # type: ignore[arg-type]


def creation(made: Workload, workload_id: str = "w") -> pb.CreateWorkloadRequest:
    return pb.CreateWorkloadRequest(parent="projects/acme", workload_id=workload_id, workload=made)


async def test_every_way_to_make_or_change_a_workload_passes_the_gate(served: tuple[SchedulerServicer, Gate]) -> None:
    servicer, gate = served
    one = await servicer.CreateWorkload(creation(workload(DB)), None)
    assert gate.asked == [(DB, "acme workload.groups[0].program.secrets", {"OWN"})]
    many = pb.BatchCreateWorkloadsRequest(parent="projects/acme", requests=[creation(workload(DB), "w2")])
    await servicer.BatchCreateWorkloads(many, None)
    assert len(gate.asked) == 2
    gate.refuses = True
    changed = pb.UpdateWorkloadRequest(workload=one)
    changed.update_mask.paths.append("groups")
    for call in (
        servicer.CreateWorkload(creation(workload(DB), "w3"), None),
        servicer.BatchCreateWorkloads(many, None),
        servicer.UpdateWorkload(changed, None),
    ):
        with pytest.raises(PermissionDenied):
            await call
    del changed.update_mask.paths[:]
    changed.update_mask.paths.append("priority")
    await servicer.UpdateWorkload(changed, None)  # of who only moves it in its queue nothing is asked
    await servicer.CreateWorkload(creation(workload(), "w4"), None)  # the control: nor of who names no secrets


async def test_without_a_gate_secrets_are_refused() -> None:
    await WorkloadSecrets(None).admit("projects/acme", [workload()])
    with pytest.raises(FailedPrecondition):
        await WorkloadSecrets(None).admit("projects/acme", [workload(DB)])


def test_a_node_has_the_groups_of_its_slices_that_have_not_ended() -> None:
    assignment = Assignment(
        slices=[
            Slice(index=0, group="a", node="pools/p/nodes/n1"),
            Slice(index=1, group="b", node="pools/p/nodes/n1"),
            Slice(index=2, group="c", node="pools/p/nodes/n11"),
        ]
    )
    assert groups_on(assignment, "n1") == {"a", "b"}
    assert groups_on(assignment, "n1", frozenset({1})) == {"a"}
    assert groups_on(assignment, "n11") == {"c"}
    assert groups_on(assignment, "n") == set()
    array = Assignment(
        programs={"task": program_pb2.Program()}, tasks=[NodeTasks(node="pools/p/nodes/n1", runs=[0, 1, 1])]
    )
    assert groups_on(array, "n1") == {"task"}
    assert groups_on(array, "n2") == set()


def test_each_secret_is_named_once_for_each_version() -> None:
    programs = [each.program for each in (*workload(DB).groups, *workload(DB, f"{DB}2").groups)]
    programs[1].process.secrets.add(secret=DB, version=3, file="x")
    assert [(each.secret, each.version) for each in references(programs)] == [(DB, 0), (f"{DB}2", 0), (DB, 3)]
