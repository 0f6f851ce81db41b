"""The ledger holds a large fleet, and one change costs the same in it as in a small one; a compaction is survived."""

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import FrameType

import pytest

from chassis.kv import Compacted, Delete, Entry, Event, Put, WatchBatch
from lepton.internal.v1 import ledger_pb2
from lepton.names import NodeName, WorkloadName
from lepton.scheduler.v1 import node_pb2, resources_pb2, workload_pb2
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.ledger import Ledger
from services.scheduler.snapshot import Snapshot
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import workload
from tests.harness.wait import until

pytestmark = pytest.mark.exhaustive

Workload = workload_pb2.Workload
SEED = 7
FENCE_S = 10.0


def queued(at: int, *, message: str = "") -> tuple[str, bytes]:
    name = WorkloadName("acme", f"w{at}")
    made = workload(1 + at % 8, priority=at % 4)
    made.name, made.uid, made.state, made.message = str(name), f"uid{at}", Workload.PENDING, message
    made.create_time.FromSeconds(1_000_000 + at)
    return keys.workload(name), stored(made)


def node(at: int) -> tuple[str, bytes]:
    name = NodeName("general", f"n{at}")
    capacity = resources_pb2.Resources(cpu_milli=64_000, memory_bytes=1 << 38)
    devices = [resources_pb2.Device(index=each, model="A") for each in range(8)]
    made = node_pb2.Node(name=str(name), session_id="s", capacity=capacity, devices=devices, state=node_pb2.Node.READY)
    return keys.node(name), made.SerializeToString()


def assigned(at: int, *, generation: int = 1) -> tuple[str, bytes]:
    name, where = WorkloadName("acme", f"w{at}"), NodeName("general", f"n{at // 8}")
    made = ledger_pb2.Assignment(workload=str(name), generation=generation, pool="pools/general")
    made.slices.add(index=0, group="workers", node=str(where), devices=[at % 8])
    made.sessions[str(where)] = "s"
    return keys.assignment(name, generation), made.SerializeToString()


class Store:
    """Numbers the changes, as etcd would."""

    def __init__(self) -> None:
        self.revision = 0

    def batch(self, *documents: tuple[str, bytes]) -> WatchBatch:
        events = list[Event]()
        for key, value in documents:
            self.revision += 1
            entry = Entry(key=key, value=value, create_revision=1, mod_revision=self.revision, version=1)
            events.append(Event(key=key, entry=entry, revision=self.revision))
        return WatchBatch(events=tuple(events), revision=self.revision)


def filled(workloads: int, nodes: int) -> tuple[Ledger, Store]:
    """A ledger with so many queued workloads, as many running ones as half the devices, and so many nodes."""
    ledger, store = Ledger(MemoryKV(), ManualClock()), Store()
    ledger.apply(store.batch(*map(node, range(nodes))))
    ledger.apply(store.batch(*map(queued, range(workloads))))
    ledger.apply(store.batch(*map(assigned, range(min(workloads, nodes * 4)))))
    ledger.snapshot(FENCE_S)
    return ledger, store


def calls(ledger: Ledger, batches: Sequence[WatchBatch]) -> int:
    """How many functions, of Python or of C, these batches and a snapshot after each of them call."""
    counted = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        for batch in batches:
            ledger.apply(batch)
            ledger.snapshot(FENCE_S)
    finally:
        sys.setprofile(None)
    return counted


def some_changes(store: Store) -> list[WatchBatch]:
    """Of each kind one."""
    status = workload_pb2.Slice(index=0, state=workload_pb2.Slice.RUNNING)
    where = f"{keys.statuses(WorkloadName('acme', 'w1'), 1)}{0:05d}"
    return [
        store.batch(queued(5, message="why it waits")),
        store.batch(node(3)),
        store.batch(assigned(7, generation=2)),
        store.batch((where, status.SerializeToString())),
        store.batch(queued(1_000_000)),
    ]


def test_a_change_costs_as_much_in_a_large_fleet_as_in_a_small_one() -> None:
    small, store = filled(100, 10)
    few = calls(small, some_changes(store))
    large, store = filled(20_000, 2_000)
    many = calls(large, some_changes(store))
    assert many <= few * 1.05, f"{few} calls with 100 workloads on 10 nodes, {many} with 20,000 on 2,000"


@pytest.mark.slow
def test_a_hundred_thousand_workloads_and_ten_thousand_nodes_cost_no_more() -> None:
    small, store = filled(100, 10)
    few = calls(small, some_changes(store))
    large, store = filled(100_000, 10_000)
    assert calls(large, some_changes(store)) <= few * 1.05
    assert len(large.snapshot(FENCE_S).workloads) == 100_001


def test_a_snapshot_that_is_kept_up_equals_one_that_is_made_afresh() -> None:
    print(f"seed {SEED}")
    chance, store, clock = random.Random(SEED), Store(), ManualClock()
    ledger, documents = Ledger(MemoryKV(), clock), dict[str, bytes]()
    for _ in range(300):
        at = chance.randrange(12)
        key, value = chance.choice(
            [queued(at), node(at // 8), assigned(at), assigned(at, generation=2), *([status(at)] * 2)]
        )
        if key in documents and not key.startswith(keys.STATUSES) and chance.random() < 0.4:  # those go with theirs
            del documents[key]
            store.revision += 1
            gone = Event(key=key, entry=None, revision=store.revision)
            ledger.apply(WatchBatch(events=(gone,), revision=store.revision))
            if key.startswith(keys.ASSIGNMENTS):  # the leader forgets the statuses with it
                documents = {each: it for each, it in documents.items() if not each.startswith(_statuses(key))}
        elif not key.startswith(keys.STATUSES) or key.replace(keys.STATUSES, keys.ASSIGNMENTS)[:-6] in documents:
            documents[key] = value
            ledger.apply(store.batch((key, value)))
        if chance.random() < 0.3:
            assert shown(ledger.snapshot(FENCE_S)) == shown(afresh(documents, clock).snapshot(FENCE_S))


def status(at: int) -> tuple[str, bytes]:
    said = workload_pb2.Slice(index=0, state=workload_pb2.Slice.RUNNING)
    return f"{keys.statuses(WorkloadName('acme', f'w{at}'), 1)}{0:05d}", said.SerializeToString()


def _statuses(assignment: str) -> str:
    return assignment.replace(keys.ASSIGNMENTS, keys.STATUSES) + "/"


def afresh(documents: dict[str, bytes], clock: ManualClock) -> Ledger:
    ledger = Ledger(MemoryKV(), clock)
    ledger.apply(Store().batch(*sorted(documents.items(), key=lambda each: each[0].startswith(keys.STATUSES))))
    return ledger


def shown(snapshot: Snapshot) -> tuple[object, ...]:
    return dict(snapshot.nodes), dict(snapshot.workloads), dict(snapshot.assignments)


class Losing(MemoryKV):
    """Its first watch hears nothing more once it is deaf, and is told in the end that the history is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.is_deaf, self.may_resume = False, asyncio.Event()

    async def watch(self, prefix: str, *, start_revision: int = 0) -> AsyncGenerator[WatchBatch, None]:
        async with aclosing(super().watch(prefix, start_revision=start_revision)) as batches:
            async for batch in batches:
                if self.is_deaf:
                    await self.may_resume.wait()
                    self.is_deaf = False
                    raise Compacted(batch.revision)
                yield batch


async def test_a_compaction_while_the_ledger_hears_nothing_loses_no_change_and_no_deletion() -> None:
    async with Losing() as kv:
        ledger = Ledger(kv, ManualClock())
        await kv.txn([], [Put(*queued(at)) for at in range(20)])
        await kv.txn([], [Put(*assigned(3)), Put(*node(0))])
        following = asyncio.create_task(ledger.run())
        await asyncio.wait_for(ledger.synced.wait(), 10)
        await asyncio.wait_for(ledger.reached(await kv.put(*queued(20))), 10)  # the watch stands
        kv.is_deaf = True
        await kv.txn(
            [], [Delete(queued(3)[0]), Delete(assigned(3)[0]), Put(*queued(4, message="new")), Put(*queued(21))]
        )
        await kv.compact(await kv.put("/elsewhere", b""))
        kv.may_resume.set()
        await until(lambda: "projects/acme/workloads/w21" in ledger.workloads)
        snapshot = ledger.snapshot(FENCE_S)
        assert set(snapshot.workloads) == {f"projects/acme/workloads/w{at}" for at in range(22) if at != 3}
        assert snapshot.workloads["projects/acme/workloads/w4"].message == "new"
        assert not snapshot.assignments
        assert not ledger.on_node("pools/general/nodes/n0")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
