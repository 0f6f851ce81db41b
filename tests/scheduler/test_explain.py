"""Why a workload waits: the reason, what is short, who is in the way, its place in the queue, and when it may start."""

from dataclasses import replace
from typing import Any

import pytest

from lepton.errors import NotFound
from lepton.scheduler.v1 import planning_service_pb2 as planning
from lepton.scheduler.v1.planning_service_pb2_grpc import PlanningServiceStub
from services.scheduler.explain.estimate import Spread, spread_of
from services.scheduler.explain.explanation import Explanation, explain
from services.scheduler.explain.gaps import Gap
from services.scheduler.queue_values import Queue, Quota
from services.scheduler.snapshot import Kind, Reason, SliceState, Snapshot, State, Workload
from tests.harness.agent import ScriptedAgent
from tests.harness.agent import Slice as SliceProto
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica
from tests.harness.scheduling import Workload as WorkloadProto
from tests.harness.scheduling import workload as proto
from tests.scheduler.situations import LICENCE, NOW, at_rest
from tests.scheduler.world import group, node, workload

MINE = "projects/a/workloads/mine"


def why(snapshot: Snapshot, name: str = MINE, spread: Spread | None = None, now: float = NOW) -> Explanation:
    return explain(snapshot, name, now, spread or Spread())


def full(name: str, devices: int, **fields: Any) -> Workload:
    """A workload that holds so many devices and that nothing can stop."""
    return workload(name, group(devices), is_preemptible=False, **fields)


def test_what_the_machines_are_short_of() -> None:
    mine = workload(MINE, group(2, 2000, memory_bytes=1))
    told = why(at_rest((node("n0", 2), node("n1", 1)), full("projects/a/workloads/w", 1), mine))
    assert told.reason is Reason.WAITING_FOR_CAPACITY
    assert told.gaps == (Gap(pool="pools/p", resource="device_milli", needed=4000, available=2000),)
    assert "room for" in told.message


def test_what_no_single_node_has_enough_of() -> None:
    told = why(
        at_rest((node("n0", 2), node("n1", 2)), full("projects/a/workloads/w", 1), workload(MINE, group(1, 3000)))
    )
    assert told.gaps == (Gap(pool="pools/p", resource="device_milli", needed=3000, available=2000),)


def test_every_pool_that_it_may_run_in_is_told_of() -> None:
    nodes = (node("n0", 1), node("n1", 1, pool="pools/q"))
    mine = workload(MINE, group(1, 2000), pools=("pools/q", "pools/p"))
    told = why(at_rest(nodes, mine, pools=("pools/p", "pools/q")))
    assert [each.pool for each in told.gaps] == ["pools/q", "pools/p"]


def test_what_the_quotas_are_short_of() -> None:
    quota = Quota(resource="device_milli", nominal=1500)
    queue = Queue(name="queues/q", projects=("projects/a",), quotas=(quota,))
    snapshot = at_rest((node("n0", 8),), full("projects/a/workloads/w", 1), workload(MINE), queues=(queue,))
    told = why(snapshot)
    assert told.reason is Reason.WAITING_FOR_QUOTA
    assert told.gaps == (Gap(queue="queues/q", resource="device_milli", needed=1000, available=500),)
    assert told.blockers == ("projects/a/workloads/w",)


def test_what_a_floating_resource_is_short_of() -> None:
    holds = full("projects/a/workloads/w", 1, floating=((LICENCE, 2),))
    beside = full("projects/a/workloads/beside", 1)
    snapshot = at_rest((node("n0", 8),), holds, beside, workload(MINE, floating=((LICENCE, 2),)), floating={LICENCE: 3})
    told = why(snapshot)
    assert told.reason is Reason.WAITING_FOR_FLOATING_RESOURCE
    assert told.gaps == (Gap(resource=LICENCE, needed=2, available=1),)
    assert told.blockers == (holds.name,)


def test_blockers_are_those_whose_removal_alone_helps_then_the_largest() -> None:
    """Two nodes: only the one that holds most of a node can make room for four."""
    nodes = (node("n0", 4), node("n1", 4))
    running = [full("projects/a/workloads/three", 3), full("projects/a/workloads/two", 2)]
    small = [full("projects/a/workloads/one", 1), full("projects/a/workloads/other", 1)]
    snapshot = at_rest(nodes, *running, *small, workload(MINE, group(1, 3000)))
    told = why(snapshot)
    where = {name: each[0].slices[0].node for name, each in snapshot.assignments.items()}
    assert where["projects/a/workloads/three"] != where["projects/a/workloads/two"], "the packing has changed"
    assert told.blockers[0] == "projects/a/workloads/three"
    assert set(told.blockers) == set(snapshot.assignments)


def test_other_projects_workloads_are_counted_and_not_named() -> None:
    theirs = [full(f"projects/b/workloads/secret-{at}", 1) for at in range(3)]
    told = why(at_rest((node("n0", 4),), full("projects/a/workloads/w", 1), *theirs, workload(MINE)))
    assert told.blockers == ("projects/a/workloads/w",)
    assert told.message.endswith("; 3 workloads of other projects hold what it needs")
    assert "secret" not in repr(told)


def test_who_holds_something_else_is_not_in_the_way() -> None:
    only_cpu = workload("projects/a/workloads/cpu", group(1, 0, cpu_milli=100))
    snapshot = at_rest((node("n0", 1),), full("projects/a/workloads/w", 1), only_cpu, workload(MINE))
    assert why(snapshot).blockers == ("projects/a/workloads/w",)


def test_its_place_in_the_queue() -> None:
    waiting = [workload(f"projects/a/workloads/w{at}", group(1, 2000), priority=at) for at in range(3)]
    snapshot = at_rest((node("n0", 1),), *waiting)
    assert [why(snapshot, each.name).position for each in waiting] == [3, 2, 1]


def test_places_are_counted_within_a_queue() -> None:
    queues = tuple(Queue(name=f"queues/{each}", projects=(f"projects/{each}",)) for each in "ab")
    waiting = [workload(f"projects/{each}/workloads/w{at}", group(1, 2000)) for at in range(2) for each in "ab"]
    snapshot = at_rest((node("n0", 1),), *waiting, queues=queues)
    assert [why(snapshot, each.name).position for each in waiting] == [1, 1, 2, 2]


def test_one_that_runs_says_so() -> None:
    told = why(at_rest((node("n0", 2), node("n1", 2)), workload(MINE, group(3))))
    assert (told.reason, told.changes, told.position) == (Reason.NONE, (), 0)
    assert told.message == "it has a place, and its slices are starting: 3 slices on 2 nodes of pools/p"


def test_one_that_is_being_stopped_says_so() -> None:
    snapshot = at_rest((node("n0", 1),), workload(MINE))
    stopping = replace(snapshot.workloads[MINE], state=State.CANCELLING, message="cancelled on request")
    told = why(replace(snapshot, workloads={MINE: stopping}))
    assert told.message == "it is CANCELLING: cancelled on request"


def test_one_for_which_there_is_room_now() -> None:
    snapshot = at_rest((node("n0", 1),))
    told = why(replace(snapshot, workloads={MINE: workload(MINE)}))
    assert (told.reason, told.changes) == (Reason.PENDING_EVALUATION, ())
    assert told.start is not None
    assert told.start.p90_s == 0


def test_it_may_start_when_what_is_before_it_ends() -> None:
    """Two of two devices run for 100 s and 300 s; 40 s have passed."""
    running = [full(f"projects/b/workloads/w{at}", 1, expected_duration_s=at) for at in (100, 300)]
    snapshot = at_rest((node("n0", 2),), *running, workload(MINE))
    start = why(snapshot, now=NOW + 40).start
    assert start is not None
    assert (start.p50_s, start.p90_s) == (60.0, 160.0)
    assert start.basis.startswith("2 of 2 running workloads say how long they run; they take 1 times (p90: 2 times)")
    both = at_rest((node("n0", 2),), *running, workload(MINE, group(2)))
    later = why(both, now=NOW + 40).start
    assert later is not None
    assert (later.p50_s, later.p90_s) == (260.0, 560.0)


def test_those_before_it_in_the_queue_go_first() -> None:
    running = full("projects/b/workloads/w", 1, expected_duration_s=100)
    before = full("projects/b/workloads/before", 1, expected_duration_s=1000)
    start = why(at_rest((node("n0", 1),), running, before, workload(MINE))).start
    assert start is not None
    assert start.p50_s == 1100.0


def test_the_spread_is_that_of_workloads_that_have_ended() -> None:
    assert spread_of([3.0] * 19) == Spread(samples=19)
    measured = spread_of([0.5] * 10 + [1.5] * 7 + [4.0] * 3)
    assert (measured.p50, measured.p90, measured.samples) == (1.5, 4.0, 20)
    snapshot = at_rest((node("n0", 1),), full("projects/b/workloads/w", 1, expected_duration_s=100), workload(MINE))
    start = why(snapshot, spread=measured).start
    assert start is not None
    assert (start.p50_s, start.p90_s) == (150.0, 400.0)
    assert start.basis.endswith("measured on 20 that have ended")


def test_what_has_outlived_its_time_is_expected_to_go_on_for_a_while() -> None:
    snapshot = at_rest((node("n0", 1),), full("projects/b/workloads/w", 1, expected_duration_s=100), workload(MINE))
    start = why(snapshot, now=NOW + 400).start
    assert start is not None
    assert (start.p50_s, start.p90_s) == (200.0, 400.0)


def test_fewer_slices_than_it_could_have_take_longer() -> None:
    elastic = workload(
        "projects/b/workloads/w",
        group(1, most=2),
        is_preemptible=False,
        expected_duration_s=100,
        throughput=((1, 10.0), (2, 20.0)),
    )
    start = why(at_rest((node("n0", 1),), elastic, workload(MINE))).start
    assert start is not None
    assert start.p50_s == 200.0


def test_nothing_is_said_of_the_start_when_nothing_is_known() -> None:
    assert why(at_rest((node("n0", 1),), full("projects/b/workloads/w", 1), workload(MINE))).start is None


def test_one_that_backs_off_starts_when_that_is_over() -> None:
    snapshot = at_rest((node("n0", 1),))
    failed = workload(MINE, reason=Reason.BACKING_OFF, not_before=NOW + 30, restarts=5)
    told = why(replace(snapshot, workloads={MINE: failed}))
    assert told.reason is Reason.BACKING_OFF
    assert told.start is not None
    assert told.start.p90_s == 30.0


def test_a_service_that_lacks_replicas_is_explained_too() -> None:
    service = workload(MINE, group(2), kind=Kind.SERVING)
    snapshot = at_rest((node("n0", 2),), service)
    broken = replace(
        snapshot.assignments[MINE][0],
        slices=tuple(
            replace(each, state=SliceState.LOST if each.index else SliceState.READY)
            for each in snapshot.assignments[MINE][0].slices
        ),
    )
    nodes = {name: replace(each, devices=each.devices[:1]) for name, each in snapshot.nodes.items()}
    told = why(replace(snapshot, nodes=nodes, assignments={MINE: (broken,)}))
    assert told.reason is Reason.NONE or told.changes


async def ask(replica: Replica, name: str) -> planning.ExplainWorkloadResponse:
    stub = PlanningServiceStub(await replica.stack.enter_async_context(replica.mesh.client("users/root")))
    answer: planning.ExplainWorkloadResponse = await stub.ExplainWorkload(planning.ExplainWorkloadRequest(name=name))
    return answer


async def test_asked_of_a_scheduler(replica: Replica, kv: MemoryKV) -> None:
    async with ScriptedAgent("pools/general/nodes/n1", devices=2) as agent:
        await replica.connect(agent)
        runs = await replica.submit("runs", proto(2, disable_preemption=True, expected_duration_s=3600))
        await replica.until_state("runs", WorkloadProto.RUNNING)
        assert (await ask(replica, runs.name)).message == "it runs: 2 slices on 1 node of pools/general"
        waits = await replica.submit("waits", proto(2, topology={"level": "host"}))
        answer = await ask(replica, waits.name)
        assert answer.reason == WorkloadProto.WAITING_FOR_CAPACITY
        (gap,) = answer.gaps
        assert (gap.pool, gap.resource, gap.needed, gap.available) == ("pools/general", "device_milli", 2000, 0)
        assert list(answer.blockers) == [runs.name]
        assert (answer.position, answer.revision > 0) == (1, True)
        (change,) = answer.changes
        assert (change.add_nodes.like, change.add_nodes.count) == (agent.node, 1)
        assert change.description == f"add 1 node like {agent.node}"
        ahead_s = answer.start.p50.seconds - waits.create_time.seconds
        assert 3500 < ahead_s < 3700
        assert answer.start.p90.seconds - answer.start.p50.seconds == pytest.approx(3600, abs=10)
        for each in agent.running(runs.name):
            agent.end(each, SliceProto.SUCCEEDED)
        await replica.until_state("runs", WorkloadProto.SUCCEEDED)
        assert (await ask(replica, runs.name)).message == "it has ended, SUCCEEDED"


async def test_the_smallest_change_comes_as_a_whole_workload(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1", devices=2) as agent:
        await replica.connect(agent)
        waits = await replica.submit("waits", proto(3, cpu_milli=7))
        (change,) = (await ask(replica, waits.name)).changes
        assert change.description == "ask for at least 2 instead of 3 slices of worker"
        wished = change.change_workload
        assert (wished.name, wished.groups[0].min_count, wished.groups[0].max_count) == (waits.name, 2, 3)
        assert wished.groups[0].program == waits.groups[0].program
        assert wished.groups[0].resources.cpu_milli == 7
        assert not wished.uid, "what only the scheduler says is no part of a wish"


async def test_one_that_is_not_there(replica: Replica) -> None:
    with pytest.raises(NotFound, match="WORKLOAD_NOT_FOUND"):
        await ask(replica, "projects/acme/workloads/none")
