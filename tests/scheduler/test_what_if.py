"""What if: a change applied to a snapshot, the planner played to its rest, and what comes out differently."""

from dataclasses import replace
from typing import Any

import pytest

from lepton.errors import InvalidArgument, NotFound
from lepton.scheduler.v1 import planning_service_pb2 as planning
from lepton.scheduler.v1 import queue_pb2
from lepton.scheduler.v1.planning_service_pb2_grpc import PlanningServiceStub
from services.scheduler.explain.changes import (
    AddNodes,
    Change,
    ChangeWorkload,
    RemoveNode,
    RemoveWorkload,
    SetFloatingResource,
    SetQuota,
    Submit,
    describe,
)
from services.scheduler.explain.rehearsal import MAX_ROUNDS, Budget, OutOfBudgetError, rehearse
from services.scheduler.explain.what_if import Outcome, UnknownError, apply, outcomes
from services.scheduler.queue_values import Queue, Quota
from services.scheduler.snapshot import Kind, Reason, Snapshot, State
from tests.harness.agent import ScriptedAgent
from tests.harness.scheduling import Replica
from tests.harness.scheduling import Workload as WorkloadProto
from tests.harness.scheduling import workload as proto
from tests.scheduler.situations import LICENCE, NOW, at_rest, budget, situation
from tests.scheduler.world import group, node, workload

RUNS, WAITS = "projects/a/workloads/runs", "projects/a/workloads/waits"


def busy() -> Snapshot:
    """One node of two devices, both taken by one gang, and a gang that waits for them."""
    return at_rest(
        (node("n0", 2),),
        workload(RUNS, group(2), is_preemptible=False),
        workload(WAITS, group(2), is_preemptible=False),
    )


def what_if(snapshot: Snapshot, *changes: Change) -> dict[str, Outcome]:
    return {each.workload: each for each in outcomes(snapshot, changes, NOW, budget())}


def test_more_nodes() -> None:
    (found,) = what_if(busy(), AddNodes(like="pools/p/nodes/n0", count=1)).values()
    assert (found.workload, found.state, found.slices, found.is_preempted) == (WAITS, State.ASSIGNED, 2, False)
    assert found.reason is Reason.NONE


def test_added_nodes_are_fresh_and_beside_the_others() -> None:
    before = busy()
    cordoned = replace(before, nodes={name: replace(each, is_schedulable=False) for name, each in before.nodes.items()})
    once = apply(cordoned, AddNodes(like="pools/p/nodes/n0", count=2), NOW)
    twice = apply(once, AddNodes(like="pools/p/nodes/n0", count=1), NOW)
    assert len(twice.nodes) == 4
    assert len({each.session for each in twice.nodes.values()}) == 4
    assert [each.is_schedulable for each in twice.nodes.values()] == [False, True, True, True]
    labelled = replace(node("n0"), labels={"rack": "x", "lepton.dev/hostname": "n0"})
    more = apply(at_rest((labelled,)), AddNodes(like=labelled.name, count=1), NOW).nodes.values()
    assert [each.labels["rack"] for each in more] == ["x", "x"]
    assert len({each.labels["lepton.dev/hostname"] for each in more}) == 2


def test_a_workload_less() -> None:
    found = what_if(busy(), RemoveWorkload(workload=RUNS))
    assert found[RUNS].state is State.CANCELLED
    assert (found[WAITS].state, found[WAITS].slices) == (State.ASSIGNED, 2)


def test_a_workload_more() -> None:
    snapshot = at_rest((node("n0", 2),))
    (found,) = what_if(snapshot, Submit(workload=workload(WAITS, group(2)))).values()
    assert (found.workload, found.state, found.slices) == (WAITS, State.ASSIGNED, 2)
    (found,) = what_if(snapshot, Submit(workload=workload(WAITS, group(3)))).values()
    assert (found.state, found.slices, found.reason) == (State.PENDING, 0, Reason.NO_MATCHING_POOL) or found.message


def test_a_workload_that_asks_for_less() -> None:
    snapshot = at_rest((node("n0", 2),), workload(WAITS, group(3)))
    before = snapshot.workloads[WAITS]
    wished = replace(before, groups=(group(2),), state=State.RUNNING, generation=99)
    (found,) = what_if(snapshot, ChangeWorkload(workload=wished)).values()
    assert (found.state, found.slices) == (State.ASSIGNED, 2)
    after = apply(snapshot, ChangeWorkload(workload=wished), NOW).workloads[WAITS]
    assert (after.state, after.generation) == (before.state, before.generation), "only wishes are taken over"


def test_a_node_less() -> None:
    service = workload("projects/a/workloads/service", group(2), kind=Kind.SERVING, is_spread=True)
    snapshot = at_rest((node("n0", 1), node("n1", 1)), service)
    found = what_if(snapshot, RemoveNode(node="pools/p/nodes/n0"))
    assert (found[service.name].slices, found[service.name].is_preempted) == (1, False)
    gang = at_rest((node("n0", 1), node("n1", 1)), workload(RUNS, group(2)))
    lost = what_if(gang, RemoveNode(node="pools/p/nodes/n0"))[RUNS]
    assert (lost.state, lost.slices) == (State.PENDING, 0), "the fence is over: it is not waited for"


def test_another_quota() -> None:
    queue = Queue(name="queues/q", projects=("projects/a",), quotas=(Quota(resource="device_milli", nominal=2000),))
    snapshot = at_rest((node("n0", 4),), workload(RUNS, group(2)), workload(WAITS, group(2)), queues=(queue,))
    assert snapshot.workloads[WAITS].reason is Reason.WAITING_FOR_QUOTA
    more = SetQuota(queue="queues/q", quota=Quota(resource="device_milli", nominal=4000))
    assert what_if(snapshot, more)[WAITS].state is State.ASSIGNED
    other = SetQuota(queue="queues/q", quota=Quota(resource="cpu_milli", nominal=0))
    kept = apply(apply(snapshot, other, NOW), more, NOW).queues["queues/q"].quotas
    assert {(each.resource, each.nominal) for each in kept} == {("device_milli", 4000), ("cpu_milli", 0)}


def test_more_of_a_floating_resource() -> None:
    gang = workload(WAITS, floating=((LICENCE, 2),))
    snapshot = at_rest((node("n0", 4),), gang, floating={LICENCE: 1})
    assert what_if(snapshot, SetFloatingResource(name=LICENCE, capacity=2))[WAITS].state is State.ASSIGNED


def test_changes_are_applied_in_order() -> None:
    node_first = (AddNodes(like="pools/p/nodes/n0", count=1), RemoveNode(node="pools/p/nodes/n0"))
    found = what_if(at_rest((node("n0", 2),), workload(WAITS, group(3))), *node_first)
    assert WAITS not in found or found[WAITS].state is State.PENDING
    with pytest.raises(UnknownError, match="n0"):
        what_if(at_rest((node("n0", 2),)), *reversed(node_first))


def test_one_of_higher_priority_stops_another_and_that_is_told() -> None:
    snapshot = at_rest((node("n0", 2),), workload(RUNS, group(2)))
    later = NOW + 600  # long enough to be stopped, and too short for the loss to be larger than the gain
    urgent = Submit(workload=workload(WAITS, group(2), priority=100, submitted=10**15))
    found = {each.workload: each for each in outcomes(snapshot, [urgent], later, budget())}
    assert (found[WAITS].state, found[WAITS].is_preempted) == (State.ASSIGNED, False)
    assert (found[RUNS].state, found[RUNS].is_preempted) == (State.PENDING, True)


@pytest.mark.parametrize(
    "change",
    [
        AddNodes(like="pools/p/nodes/none", count=1),
        RemoveNode(node="pools/p/nodes/none"),
        SetQuota(queue="queues/none", quota=Quota(resource="cpu_milli", nominal=1)),
        RemoveWorkload(workload="projects/a/workloads/none"),
        ChangeWorkload(workload=workload("projects/a/workloads/none")),
    ],
    ids=lambda change: type(change).__name__,
)
def test_what_is_not_there_cannot_be_changed(change: Change) -> None:
    with pytest.raises(UnknownError, match="none"):
        apply(busy(), change, NOW)


def test_the_snapshot_itself_stays_as_it_is() -> None:
    for seed in range(25):
        snapshot, name = situation(seed)
        before = repr(snapshot)
        for change in (RemoveWorkload(workload=name), AddNodes(like=min(snapshot.nodes), count=2)):
            outcomes(snapshot, [change], NOW, budget())
        assert repr(snapshot) == before


def test_nothing_changed_is_no_difference() -> None:
    for seed in range(25):
        snapshot, _ = situation(seed)
        assert (
            outcomes(snapshot, [SetFloatingResource(name="floatingResources/unused", capacity=1)], NOW, budget()) == ()
        )


def test_a_rehearsal_comes_to_rest() -> None:
    for seed in range(100):
        snapshot, _ = situation(seed)
        again = rehearse(snapshot, NOW, Budget((MAX_ROUNDS - 1) * (len(snapshot.workloads) + len(snapshot.nodes) + 1)))
        assert rehearse(again.snapshot, NOW, budget()).snapshot == again.snapshot, f"seed {seed}"


def test_a_question_that_costs_too_much_is_not_answered() -> None:
    with pytest.raises(OutOfBudgetError):
        outcomes(busy(), [AddNodes(like="pools/p/nodes/n0", count=10_000)], NOW, Budget(9_999))


def test_every_change_has_words() -> None:
    quota = Quota(resource="cpu_milli", nominal=5)
    for change, words in (
        (AddNodes(like="pools/p/nodes/n", count=2), "add 2 nodes like pools/p/nodes/n"),
        (RemoveNode(node="pools/p/nodes/n"), "remove pools/p/nodes/n"),
        (SetQuota(queue="queues/q", quota=quota), "set the quota of queues/q to 5 cpu_milli of all pools together"),
        (SetFloatingResource(name=LICENCE, capacity=3), f"set {LICENCE} to 3"),
        (Submit(workload=workload(WAITS)), f"submit {WAITS}"),
        (ChangeWorkload(workload=workload(WAITS)), f"change {WAITS}"),
        (RemoveWorkload(workload=WAITS), f"remove {WAITS}"),
    ):
        assert describe(change) == words


async def ask(replica: Replica, *changes: planning.Change, parent: str = "projects/acme") -> planning.WhatIfResponse:
    stub = PlanningServiceStub(await replica.stack.enter_async_context(replica.mesh.client("users/root")))
    answer: planning.WhatIfResponse = await stub.WhatIf(planning.WhatIfRequest(parent=parent, changes=changes))
    return answer


async def test_asked_of_a_scheduler(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1", devices=2) as agent:
        await replica.connect(agent)
        await replica.submit("runs", proto(2, disable_preemption=True))
        await replica.until_state("runs", WorkloadProto.RUNNING)
        await replica.submit("waits", proto(2))
        await replica.submit("theirs", proto(2), project="other")
        more = planning.Change(add_nodes=planning.AddNodes(like=agent.node, count=2))
        answer = await ask(replica, more)
        assert [(each.workload, each.slices) for each in answer.outcomes] == [("projects/acme/workloads/waits", 2)]
        assert 0 < answer.revision <= replica.scheduler.ledger.revision
        everyone = await ask(replica, more, parent="projects/-")
        assert {each.workload.split("/")[1] for each in everyone.outcomes} == {"acme", "other"}
        submitted = await ask(replica, more, planning.Change(submit=proto(2)), parent="projects/new")
        assert [each.workload for each in submitted.outcomes] == ["projects/new/workloads/what-if"]
        assert (await replica.get("waits")).state == WorkloadProto.PENDING, "nothing was really changed"
        assert len(agent.slices) == 2


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"add_nodes": {"like": "pools/general/nodes/none", "count": 1}}, NotFound),
        ({"add_nodes": {"like": "nonsense", "count": 1}}, InvalidArgument),
        ({"remove_workload": "projects/acme/workloads/none"}, NotFound),
        ({"remove_workload": "projects/other/workloads/secret"}, InvalidArgument),
        ({"set_quota": {"queue": "queues/none", "quota": {"resource": "cpu_milli"}}}, NotFound),
        ({"remove_node": "pools/general"}, InvalidArgument),
        ({"submit": proto(1, pools=["nonsense"])}, InvalidArgument),
        ({"set_floating_resource": queue_pb2.FloatingResource(name="nonsense")}, InvalidArgument),
    ],
)
async def test_questions_that_make_no_sense(replica: Replica, change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        await ask(replica, planning.Change(**change))
