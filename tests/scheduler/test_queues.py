"""The RPCs on queues and floating resources, and what the ledger makes of them."""

import asyncio
import uuid
from typing import Any

import pytest

from chassis.kv import Delete, Put
from lepton.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from lepton.internal.v1 import ledger_pb2
from lepton.names import ProjectName, WorkloadName
from lepton.scheduler.v1 import queue_pb2, workload_pb2
from lepton.scheduler.v1 import queue_service_pb2 as pb
from lepton.scheduler.v1.queue_service_pb2_grpc import QueueServiceStub
from lepton.scheduler.v1.scheduler_service_pb2 import CancelWorkloadRequest, UpdateWorkloadRequest
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.convert.moments import timestamp
from services.scheduler.queue_values import Policy, Stop
from services.scheduler.snapshot import CheckState, Toleration, Topology
from tests.harness.agent import ScriptedAgent
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, Workload, workload
from tests.harness.wait import until

Queue = queue_pb2.Queue
Quota = queue_pb2.Quota


@pytest.fixture
async def stub(replica: Replica) -> Any:
    """The queues, as an operator sees them."""
    return QueueServiceStub(await replica.stack.enter_async_context(replica.mesh.client("users/root")))


async def create(stub: Any, queue_id: str, request_id: str = "", **fields: Any) -> Queue:
    request = pb.CreateQueueRequest(queue_id=queue_id, queue=Queue(**fields), request_id=request_id)
    answer: Queue = await stub.CreateQueue(request)
    return answer


async def update(stub: Any, queue: Queue, *paths: str) -> Queue:
    request = pb.UpdateQueueRequest(queue=queue)
    request.update_mask.paths.extend(paths)
    answer: Queue = await stub.UpdateQueue(request)
    return answer


async def test_queues_are_created_listed_changed_and_deleted(stub: Any) -> None:
    top = await create(stub, "top")
    assert (top.name, top.policy, top.strictness) == ("queues/top", Queue.FAIR_SHARE, Queue.BEST_EFFORT)
    assert top.uid
    assert top.HasField("create_time")
    quotas = [Quota(resource="device_milli", nominal=4000, borrowing_limit=0)]
    below = await create(stub, "below", parent="queues/top", quotas=quotas, projects=["projects/acme"])
    assert await stub.GetQueue(pb.GetQueueRequest(name="queues/below")) == below
    with pytest.raises(AlreadyExists, match="QUEUE_ALREADY_EXISTS"):
        await create(stub, "top")
    first = await stub.ListQueues(pb.ListQueuesRequest(page_size=1))
    assert [each.name for each in first.queues] == ["queues/below"]
    second = await stub.ListQueues(pb.ListQueuesRequest(page_size=1, page_token=first.next_page_token))
    assert [each.name for each in second.queues] == ["queues/top"]
    changed = await update(stub, Queue(name="queues/below", weight=2.0, stop_policy=Queue.HOLD, etag=below.etag))
    assert (changed.weight, changed.stop_policy, changed.parent) == (2.0, Queue.HOLD, "queues/top")
    assert changed.quotas == below.quotas
    opened = await update(stub, Queue(name="queues/below"), "stop_policy", "parent")
    assert (opened.stop_policy, opened.parent, opened.weight) == (0, "", 2.0)
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await update(stub, Queue(name="queues/below", weight=3.0, etag=below.etag))
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await stub.DeleteQueue(pb.DeleteQueueRequest(name="queues/below", etag=below.etag))
    await stub.DeleteQueue(pb.DeleteQueueRequest(name="queues/below", etag=opened.etag))
    with pytest.raises(NotFound, match="QUEUE_NOT_FOUND"):
        await stub.GetQueue(pb.GetQueueRequest(name="queues/below"))


async def test_a_repeated_request_gets_the_first_answer(stub: Any) -> None:
    request_id = str(uuid.uuid4())
    first, again = [await create(stub, "top", request_id, weight=2.0) for _ in range(2)]
    assert (first.uid, first.etag) == (again.uid, again.etag)
    with pytest.raises(AlreadyExists, match="IDEMPOTENCY_KEY_REUSED"):
        await create(stub, "other", request_id)


async def test_everything_is_replaced_by_a_mask_of_everything(stub: Any) -> None:
    await create(stub, "top", weight=2.0, projects=["projects/acme"])
    changed = await update(stub, Queue(name="queues/top", aging_s=60), "*")
    assert (changed.weight, list(changed.projects), changed.aging_s) == (0.0, [], 60)
    assert changed.uid, "but for what the scheduler says itself"


TWICE = [Quota(resource="cpu_milli", nominal=1), Quota(resource="cpu_milli", nominal=2)]


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"parent": "queues/none"}, "queue.parent", "create it first"),
        ({"parent": "none"}, "queue.parent", "form"),
        ({"parent": "queues/new"}, "queue.parent", "another queue"),
        ({"projects": ["projects/acme"]}, "queue.projects[0]", "queues/top already"),
        ({"projects": ["acme"]}, "queue.projects[0]", "form"),
        ({"quotas": TWICE}, "queue.quotas[0]", "keep one"),
        ({"project_limits": TWICE}, "queue.project_limits[1]", "keep one"),
        ({"quotas": [Quota(resource="gpus", nominal=1)]}, "queue.quotas[0].resource", "in list"),
        ({"quotas": [Quota(resource="cpu_milli", pool="fast")]}, "queue.quotas[0].pool", "form"),
        ({"project_limits": [Quota(resource="cpu_milli", lending_limit=1)]}, "queue.project_limits[0]", "nominal only"),
        ({"weight": -1.0}, "queue.weight", ""),
    ],
)
async def test_a_wrong_queue_is_refused_naming_the_field_and_what_to_do(
    stub: Any, fields: dict[str, Any], field: str, words: str
) -> None:
    await create(stub, "top", projects=["projects/acme"])
    with pytest.raises(InvalidArgument) as refused:
        await create(stub, "new", **fields)
    assert words in refused.value.fields[field]


async def test_the_tree_stays_a_tree(stub: Any) -> None:
    for at in range(8):
        await create(stub, f"q{at}", parent=f"queues/q{at - 1}" if at else "")
    with pytest.raises(InvalidArgument) as refused:
        await update(stub, Queue(name="queues/q0", parent="queues/q2"))
    assert "queues/q0 > queues/q2 > queues/q1 > queues/q0" in refused.value.fields["queue.parent"]
    with pytest.raises(InvalidArgument) as refused:
        await create(stub, "q8", parent="queues/q7")
    assert "9 levels deep" in refused.value.fields["queue.parent"]
    await create(stub, "other")
    with pytest.raises(InvalidArgument) as refused:
        await update(stub, Queue(name="queues/q0", parent="queues/other"))
    assert "9 levels deep" in refused.value.fields["queue.parent"], "what is below comes along"
    with pytest.raises(InvalidArgument, match="INVALID_FIELD"):
        await update(stub, Queue(name="queues/q0"), "uid")


async def test_two_changes_at_once_cannot_close_a_circle(stub: Any) -> None:
    await create(stub, "a")
    await create(stub, "b")
    moves = [Queue(name="queues/a", parent="queues/b"), Queue(name="queues/b", parent="queues/a")]
    outcomes = await asyncio.gather(*(update(stub, each) for each in moves), return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["InvalidArgument", "Queue"]


async def test_a_project_cannot_be_taken_into_two_queues_at_once(stub: Any) -> None:
    calls = [create(stub, f"q{at}", projects=["projects/acme"]) for at in range(4)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(each, Queue) for each in outcomes) == 1
    assert sum(isinstance(each, InvalidArgument) for each in outcomes) == 3


async def test_a_queue_that_is_used_is_not_deleted(stub: Any, replica: Replica) -> None:
    await create(stub, "top")
    await create(stub, "below", parent="queues/top", projects=["projects/acme"])
    with pytest.raises(FailedPrecondition, match="QUEUE_IN_USE") as refused:
        await stub.DeleteQueue(pb.DeleteQueueRequest(name="queues/top"))
    assert refused.value.metadata["user"] == "queues/below"
    created = await replica.submit("job", workload(1))
    await until(lambda: created.name in replica.scheduler.ledger.workloads)
    with pytest.raises(FailedPrecondition, match="QUEUE_IN_USE") as refused:
        await stub.DeleteQueue(pb.DeleteQueueRequest(name="queues/below"))
    assert refused.value.metadata["user"] == created.name
    assert (await stub.GetQueue(pb.GetQueueRequest(name="queues/below"))).pending_count == 1


async def test_a_queue_shows_what_waits_and_what_is_used(stub: Any, replica: Replica) -> None:
    await create(stub, "top")
    await create(stub, "other", parent="queues/top", quotas=[Quota(resource="device_milli", nominal=3000)])
    quotas = [Quota(resource="device_milli", nominal=1000), Quota(resource="cpu_milli", nominal=900)]
    await create(stub, "default", parent="queues/top", quotas=quotas)
    async with ScriptedAgent("pools/general/nodes/n1", 4) as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(2, cpu_milli=100))
        await replica.until_state("job", Workload.RUNNING)
        shown = await stub.GetQueue(pb.GetQueueRequest(name="queues/default"))
    assert (shown.pending_count, shown.admitted_count) == (0, 1)
    assert [(each.quota.resource, each.used, each.borrowed) for each in shown.use] == [
        ("device_milli", 2000, 1000),
        ("cpu_milli", 200, 0),
    ]
    assert shown.share == pytest.approx(1.0), "2 of the 4 devices that the two may have"


async def test_floating_resources(stub: Any, replica: Replica) -> None:
    made = await stub.CreateFloatingResource(
        pb.CreateFloatingResourceRequest(
            floating_resource_id="licences", floating_resource=queue_pb2.FloatingResource(capacity=4)
        )
    )
    assert (made.name, made.capacity, made.allocated) == ("floatingResources/licences", 4, 0)
    with pytest.raises(AlreadyExists, match="FLOATING_RESOURCE_ALREADY_EXISTS"):
        await stub.CreateFloatingResource(pb.CreateFloatingResourceRequest(floating_resource_id="licences"))
    asked = await replica.submit("job", workload(1, floating_resources={made.name: 3}))
    ledger = replica.scheduler.ledger
    await until(lambda: asked.name in ledger.workloads)
    assert ledger.snapshot(10.0).floating == {made.name: 4}
    with pytest.raises(FailedPrecondition, match="FLOATING_RESOURCE_IN_USE"):
        await stub.DeleteFloatingResource(pb.DeleteFloatingResourceRequest(name=made.name))
    wanted = queue_pb2.FloatingResource(name=made.name, capacity=0, etag=made.etag)
    request = pb.UpdateFloatingResourceRequest(floating_resource=wanted)
    request.update_mask.paths.append("capacity")
    assert (await stub.UpdateFloatingResource(request)).capacity == 0
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await stub.UpdateFloatingResource(request)
    listed = await stub.ListFloatingResources(pb.ListFloatingResourcesRequest())
    assert [(each.name, each.capacity) for each in listed.floating_resources] == [(made.name, 0)]
    await replica.trainer.CancelWorkload(CancelWorkloadRequest(name=asked.name))
    await replica.until_state("job", Workload.CANCELLED)
    await stub.DeleteFloatingResource(pb.DeleteFloatingResourceRequest(name=made.name))
    with pytest.raises(NotFound, match="FLOATING_RESOURCE_NOT_FOUND"):
        await stub.GetFloatingResource(pb.GetFloatingResourceRequest(name=made.name))


async def test_members_of_the_mesh_change_nothing(replica: Replica) -> None:
    stub = QueueServiceStub(await replica.channel("agent/n1"))
    with pytest.raises((PermissionDenied, Unauthenticated)):
        await create(stub, "top")


async def test_the_planner_sees_queues_and_what_workloads_say(stub: Any, replica: Replica) -> None:
    await create(
        stub, "night", policy=Queue.FIFO, strictness=Queue.STRICT, stop_policy=Queue.HOLD_AND_DRAIN,
        quotas=[Quota(resource="cpu_milli", nominal=5, lending_limit=0)],
    )  # fmt: skip
    asked = workload(
        2, queue="queues/night", expected_duration_s=90, disable_preemption=True, node_selector={"b": "2", "a": "1"},
        tolerations=[workload_pb2.Toleration(key="k")], spread=Workload.SPREAD, hold=True,
        topology=workload_pb2.TopologyRequest(level="rack", mode=workload_pb2.TopologyRequest.PREFERRED, slice_size=2),
        admission_checks=[workload_pb2.AdmissionCheck(name="budget")],
    )  # fmt: skip
    name = (await replica.submit("job", asked)).name
    ledger = replica.scheduler.ledger
    await until(lambda: name in ledger.workloads)
    snapshot = ledger.snapshot(10.0)
    seen, night = snapshot.workloads[name], snapshot.queues["queues/night"]
    assert (night.policy, night.is_strict, night.stop, night.half_life_s) == (
        Policy.FIFO, True, Stop.HOLD_AND_DRAIN, 604800.0,
    )  # fmt: skip
    assert (night.quotas[0].lending_limit, night.quotas[0].borrowing_limit) == (0, None)
    assert (seen.queue, seen.expected_duration_s, seen.is_preemptible, seen.is_held, seen.is_spread) == (
        "queues/night", 90.0, False, True, True,
    )  # fmt: skip
    assert (seen.selector, seen.tolerations) == ((("a", "1"), ("b", "2")), (Toleration(key="k"),))
    assert seen.topology == Topology(level="rack", is_required=False, slice_size=2)
    assert [(each.name, each.state) for each in seen.checks] == [("budget", CheckState.UNKNOWN)]
    assert asyncio.get_running_loop().time() - seen.waiting_since < 60, "on the planner's clock"
    assert seen.assigned_at is None


async def test_reservations_and_use_are_followed(replica: Replica, kv: MemoryKV) -> None:
    name = WorkloadName("acme", "job")
    stamp = timestamp(replica.scheduler.ledger._clock.now())
    reservation = ledger_pb2.Reservation(workload=str(name), pool="pools/general", create_time=stamp, lifetime_s=60)
    used = ledger_pb2.ProjectUsage(project="projects/acme", dominant_share_s=8, sample_time=stamp, half_life_s=1e6)
    await kv.txn([], [Put(keys.reservation(name), stored(reservation))])
    done = await kv.txn([], [Put(keys.usage(ProjectName("acme")), stored(used))])
    ledger = replica.scheduler.ledger
    await ledger.reached(done.revision)
    snapshot = ledger.snapshot(10.0)
    held = snapshot.reservations[str(name)]
    assert 0 < held.expires_at - ledger._clock.monotonic() <= 60
    assert snapshot.usage["projects/acme"] == pytest.approx(8.0, rel=1e-3)
    done = await kv.txn([], [Delete(keys.reservation(name)), Delete(keys.usage(ProjectName("acme")))])
    await ledger.reached(done.revision)
    assert not ledger.snapshot(10.0).reservations
    assert not ledger.snapshot(10.0).usage


def _wrong_queue(asked: Workload) -> None:
    asked.queue = "night"


def _wrong_floating(asked: Workload) -> None:
    asked.floating_resources["licences"] = 1


def _wrong_toleration(asked: Workload) -> None:
    asked.tolerations.add(value="v")


def _two_checks(asked: Workload) -> None:
    asked.admission_checks.extend([workload_pb2.AdmissionCheck(name="a")] * 2)


def _uneven(asked: Workload) -> None:
    asked.topology.level, asked.topology.slice_size = "rack", 2


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (_wrong_queue, "workload.queue"),
        (_wrong_floating, "workload.floating_resources[licences]"),
        (_wrong_toleration, "workload.tolerations[0].key"),
        (_two_checks, "workload.admission_checks"),
        (_uneven, "workload.topology.slice_size"),
    ],
)
async def test_a_wrong_wish_is_refused_naming_the_field(replica: Replica, spoil: Any, field: str) -> None:
    wrong = workload(3)
    spoil(wrong)
    with pytest.raises(InvalidArgument) as refused:
        await replica.submit("job", wrong)
    assert field in refused.value.fields


async def test_a_workload_changes_its_queue_only_while_it_waits(replica: Replica) -> None:
    created = await replica.submit("job", workload(1))
    moved = workload(1, name=created.name, queue="queues/night", expected_duration_s=60, hold=True)
    request = UpdateWorkloadRequest(workload=moved)
    request.update_mask.paths.extend(["hold", "queue", "expected_duration_s"])
    changed = await replica.trainer.UpdateWorkload(request)
    assert (changed.queue, changed.expected_duration_s, changed.hold) == ("queues/night", 60, True)
    back = UpdateWorkloadRequest(workload=workload(1, name=created.name))
    back.update_mask.paths.extend(["hold", "queue"])
    assert not (await replica.trainer.UpdateWorkload(back)).hold
    async with ScriptedAgent("pools/general/nodes/n1", 1) as agent:
        await replica.connect(agent)
        await replica.until_state("job", Workload.RUNNING)
        with pytest.raises(FailedPrecondition, match="WORKLOAD_ADMITTED"):
            await replica.trainer.UpdateWorkload(request)


async def test_queues_are_watched_from_any_revision(stub: Any) -> None:
    await create(stub, "top")
    watch: Any = stub.WatchQueues(pb.WatchQueuesRequest())
    response = pb.WatchQueuesResponse
    async with asyncio.timeout(20):
        changes = aiter(watch)
        first, bookmark = await anext(changes), await anext(changes)
        assert (first.event, first.queue.name) == (response.CHANGED, "queues/top")
        assert (bookmark.event, bookmark.revision >= first.revision) == (response.BOOKMARK, True)
        changed = await update(stub, Queue(name="queues/top", weight=2), "weight")
        await create(stub, "low", parent="queues/top")
        await stub.DeleteQueue(pb.DeleteQueueRequest(name="queues/low"))
        resumed: Any = stub.WatchQueues(pb.WatchQueuesRequest(revision=bookmark.revision))
        for stream in (changes, aiter(resumed)):
            seen = list[Any]()
            while len(seen) < 3:
                change = await anext(stream)
                if change.event != response.BOOKMARK:
                    seen.append(change)
            assert [(each.event, each.queue.name) for each in seen] == [
                (response.CHANGED, "queues/top"), (response.CHANGED, "queues/low"), (response.DELETED, "queues/low"),
            ]  # fmt: skip
            assert (seen[0].queue.weight, seen[0].queue.etag) == (2.0, changed.etag)
    watch.cancel()
    resumed.cancel()


async def test_only_projects_in_which_one_has_a_role_are_shown(stub: Any, replica: Replica) -> None:
    await create(stub, "vision", projects=["projects/acme", "projects/other"])
    alice = QueueServiceStub(await replica.stack.enter_async_context(replica.mesh.client("users/alice")))
    request = pb.GetQueueRequest(name="queues/vision")
    assert list((await alice.GetQueue(request)).projects) == ["projects/acme"]
    listed = await alice.ListQueues(pb.ListQueuesRequest())
    assert [list(each.projects) for each in listed.queues] == [["projects/acme"]]
    watch: Any = alice.WatchQueues(pb.WatchQueuesRequest())
    async with asyncio.timeout(20):
        first = await anext(aiter(watch))
    watch.cancel()
    assert list(first.queue.projects) == ["projects/acme"]
    peer = QueueServiceStub(await replica.channel("service/trainer"))
    for everything in (stub, peer):
        assert list((await everything.GetQueue(request)).projects) == ["projects/acme", "projects/other"]
