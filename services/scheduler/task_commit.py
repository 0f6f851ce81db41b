"""What a decision about the tasks of an array writes: the counts in its document, and where its tasks run."""

from collections.abc import Sequence
from typing import Final

from chassis import task_runs as runs
from chassis.kv import Compare, Op, Put, mod
from lepton.internal.v1 import ledger_pb2
from lepton.names import WorkloadName
from lepton.scheduler.v1 import workload_pb2
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.ledger import Ledger
from services.scheduler.planner import Decision
from services.scheduler.snapshot import Slice, State
from services.scheduler.task_table import TaskTable, all_tasks

MAX_FAILURES: Final = 20  # of which the document says more than their index


def is_current(ledger: Ledger, decision: Decision) -> bool:
    """Whether what was decided about an array's tasks is about the documents as they are."""
    tasks = decision.tasks
    if tasks is None or not tasks.base:
        return True
    record = ledger.assignment(decision.workload, tasks.base)
    return record is not None and record.mod_revision == tasks.revision


def tell_array(array: workload_pb2.TaskArray, decision: Decision) -> None:
    """How the tasks stand, as everybody sees it."""
    tasks = decision.tasks
    assert tasks is not None
    after = tasks.array
    array.succeeded, array.failed, array.placed = after.succeeded, after.failed, after.placed
    array.running = len(tasks.live) if decision.state in (State.ASSIGNED, State.RUNNING, State.CANCELLING) else 0
    array.waiting = 0 if decision.state is State.CANCELLED else after.left - array.running
    del array.returned[:]
    for each in after.returned:
        array.returned.extend((each.position, each.failures))
    if tasks.failed:
        first = array.first_index
        array.failed_runs[:] = runs.with_positions(array.failed_runs, [first + each.index for each in tasks.failed])
        room = max(0, MAX_FAILURES - len(array.failures))
        array.failures.extend(
            workload_pb2.TaskArray.Failure(
                index=first + each.index, exit_code=each.exit_code, message=each.message, node=each.node
            )
            for each in tasks.failed[:room]
        )


def add_array(
    assignment: ledger_pb2.Assignment, document: workload_pb2.Workload, decision: Decision, ledger: Ledger
) -> None:
    """The tasks of a generation that begins, goes on, or is told to stop."""
    tasks = decision.tasks
    assert tasks is not None
    record = ledger.assignment(decision.workload, tasks.base) if tasks.base else None
    table, serial = (record.tasks, record.proto.serial) if record is not None else (None, 0)
    assignment.task_count, assignment.first_index = document.array.task_count, document.array.first_index
    del assignment.slices[:]
    if table is not None and assignment.generation == tasks.base:
        _write(assignment, [each for each in table.slices() if each.index not in tasks.dropped], table, (), serial)
    else:
        _write(assignment, tasks.live, table, tasks.added, serial)


def task_writes(ledger: Ledger, decision: Decision, name: WorkloadName, compare: list[Compare], then: list[Op]) -> None:
    """The document of the generation that goes on, with what it has now."""
    tasks = decision.tasks
    assert tasks is not None
    is_elsewhere = decision.placement is not None or any(each.generation == tasks.base for each in decision.revoke)
    if not tasks.base or tasks.base in decision.retire or is_elsewhere or not tasks.is_amended:
        return
    record = ledger.assignment(decision.workload, tasks.base)
    assert record is not None, "is_current has looked at it"
    assignment = ledger_pb2.Assignment()
    assignment.CopyFrom(record.proto)
    _write(assignment, tasks.live, record.tasks, tasks.added, record.proto.serial)
    assignment.sessions.clear()
    assignment.sessions.update(dict(tasks.sessions))
    key = keys.assignment(name, tasks.base)
    compare.append(mod(key, record.mod_revision))
    then.append(Put(key, stored(assignment)))


def _write(
    assignment: ledger_pb2.Assignment,
    live: Sequence[Slice],
    table: TaskTable | None,
    added: frozenset[int] | tuple[int, ...],
    before: int,
) -> None:
    """Whoever is placed now gets the next serial, the others keep theirs."""
    assignment.serial = serial = before + bool(added)
    serials = {
        each.index: serial if table is None or each.index in added else table.serial(each.index) for each in live
    }
    del assignment.tasks[:]
    assignment.tasks.extend(all_tasks(live, serials))
