"""What a node is told to run of a generation."""

from collections.abc import Iterable

from lepton.internal.v1 import ledger_pb2, node_session_pb2, tasks_pb2
from lepton.scheduler.v1 import program_pb2, workload_pb2
from services.scheduler.snapshot import SliceState


def start_slices(
    assignment: ledger_pb2.Assignment, slices: Iterable[workload_pb2.Slice], node: str
) -> node_session_pb2.StartSlices:
    """What one node has to run of a generation; `slices` are all of it, with their present states."""
    slices = sorted(slices, key=lambda each: each.index)
    mine = [each for each in slices if each.node == node and SliceState(each.state) < SliceState.SUCCEEDED]
    has_torch = any(program.HasField("torch") for program in assignment.programs.values())
    return node_session_pb2.StartSlices(
        workload=assignment.workload,
        workload_uid=assignment.workload_uid,
        generation=assignment.generation,
        gang_size=len(slices),
        slices=mine,
        programs=_programs(assignment, mine),
        hosts_store=has_torch and slices[0].index == 0 and slices[0].node == node,
        store_endpoint=slices[0].endpoints.get("store", ""),
        owner=assignment.owner,
        trace_context=assignment.trace_context,
        gang_nodes=list(dict.fromkeys(each.node for each in slices)),
    )


def start_tasks(assignment: ledger_pb2.Assignment, tasks: tasks_pb2.NodeTasks) -> node_session_pb2.StartTasks:
    """What one node has to run of an array."""
    return node_session_pb2.StartTasks(
        workload=assignment.workload,
        workload_uid=assignment.workload_uid,
        generation=assignment.generation,
        tasks=tasks,
        serial=assignment.serial,
        task_count=assignment.task_count,
        first_index=assignment.first_index,
        program=next(iter(assignment.programs.values())).process,
        owner=assignment.owner,
        trace_context=assignment.trace_context,
    )


def _programs(
    assignment: ledger_pb2.Assignment, slices: Iterable[workload_pb2.Slice]
) -> dict[str, program_pb2.Program]:
    return {each.group: assignment.programs[each.group] for each in slices}
