"""Which projects a node runs something of: only what is placed there and has not ended counts."""

import pytest

from lepton.internal.v1 import ledger_pb2
from lepton.scheduler.v1.workload_pb2 import Slice
from services.scheduler.node_projects import runs
from services.scheduler.records import AssignmentRecord

NODE, OTHER = "pools/general/nodes/n1", "pools/general/nodes/n2"


def record(workload: str, *slices: tuple[str, "Slice.State.ValueType"]) -> AssignmentRecord:
    placed = [Slice(index=index, node=node, state=state) for index, (node, state) in enumerate(slices)]
    return AssignmentRecord(proto=ledger_pb2.Assignment(workload=workload, generation=1, slices=placed), mod_revision=1)


@pytest.mark.parametrize("state", [Slice.STARTING, Slice.RUNNING, Slice.READY])
def test_what_runs_there_counts(state: "Slice.State.ValueType") -> None:
    running = record("projects/acme/workloads/w", (OTHER, Slice.RUNNING), (NODE, state))
    assert runs([(NODE, running)], "projects/acme")


@pytest.mark.parametrize("state", [Slice.SUCCEEDED, Slice.FAILED, Slice.STOPPED])
def test_what_has_ended_there_does_not(state: "Slice.State.ValueType") -> None:
    ended = record("projects/acme/workloads/w", (OTHER, Slice.RUNNING), (NODE, state))
    assert not runs([(NODE, ended)], "projects/acme")


def test_what_was_reported_counts_for_more_than_what_was_ordered() -> None:
    placed = record("projects/acme/workloads/w", (NODE, Slice.STARTING))
    placed.report(Slice(index=0, node=NODE, state=Slice.STOPPED))
    assert not runs([(NODE, placed)], "projects/acme")


@pytest.mark.parametrize(
    "project", ["projects/rival", "projects/ac", "projects/acme-two", "projects/acme/workloads", ""]
)
def test_another_project_is_not_there(project: str) -> None:
    running = record("projects/acme/workloads/w", (NODE, Slice.RUNNING))
    assert not runs([(NODE, running)], project)


def test_nothing_is_placed() -> None:
    assert not runs([], "projects/acme")
