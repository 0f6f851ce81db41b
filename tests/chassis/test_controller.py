"""The controller: looks at whatever has changed, knows everything before it acts, and acts only while it leads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from chassis.controller import Controller, Reconcile
from chassis.election import Election
from chassis.kv import Compare, Delete, Entry
from lepton.errors import Unavailable
from lepton.scheduler.v1.scheduler_service_pb2 import WatchWorkloadsResponse
from lepton.scheduler.v1.workload_pb2 import Workload
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until

PREFIX, LEADER = "/things/", "/leader"
THING = "projects/p/things/a"


def key(name: str) -> str:
    return PREFIX + name


class Feed:
    """Workloads that the test tells of."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[WatchWorkloadsResponse] = asyncio.Queue()

    async def watch(self) -> AsyncIterator[WatchWorkloadsResponse]:
        while True:
            yield await self.messages.get()

    def tell(self, name: str, owner: str = THING, event: int = WatchWorkloadsResponse.CHANGED) -> None:
        workload = Workload(name=name, owner=owner if event == WatchWorkloadsResponse.CHANGED else "")
        self.messages.put_nowait(WatchWorkloadsResponse(event=event, workload=workload))  # type: ignore[arg-type]

    def bookmark(self) -> None:
        self.messages.put_nowait(WatchWorkloadsResponse(event=WatchWorkloadsResponse.BOOKMARK))


class Looks:
    """What the controller looked at."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes | None, list[str]]] = []
        self.guards: list[Compare] = []
        self.controller: Controller | None = None
        self.act: Callable[[], None] = lambda: None
        self._changed = asyncio.Condition()

    async def reconcile(self, name: str, entry: Entry | None, guard: Compare) -> None:
        assert self.controller is not None
        owned = [workload.name for workload in self.controller.owned(name)]
        async with self._changed:
            self.seen.append((name, None if entry is None else entry.value, owned))
            self.guards.append(guard)
            self._changed.notify_all()
        self.act()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: bool(condition()))


def controller_of(kv: MemoryKV, feed: Feed, looks: Looks, candidate: str = "c1") -> Controller:
    reconcile: Reconcile = looks.reconcile
    looks.controller = Controller(
        kv,
        Election(kv, LEADER, candidate),
        feed,
        prefix=PREFIX,
        name_of=lambda stored: stored.removeprefix(PREFIX),
        owns=lambda name: "/things/" in name,
        reconcile=reconcile,
    )
    return looks.controller


@asynccontextmanager
async def controlling(kv: MemoryKV, feed: Feed, looks: Looks, candidate: str = "c1") -> AsyncIterator[Controller]:
    controller = controller_of(kv, feed, looks, candidate)
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def kv() -> AsyncIterator[MemoryKV]:
    async with MemoryKV() as store:
        yield store


async def test_nothing_is_done_before_the_workloads_are_known(kv: MemoryKV) -> None:
    feed, looks = Feed(), Looks()
    await kv.put(key(THING), b"1")
    async with controlling(kv, feed, looks):
        feed.tell("projects/p/workloads/w")
        await until(feed.messages.empty)
        assert looks.seen == []
        feed.bookmark()
        await looks.until(lambda: looks.seen)
    assert looks.seen[0] == (THING, b"1", ["projects/p/workloads/w"])


async def test_every_change_is_looked_at_and_the_newest_is_seen(kv: MemoryKV) -> None:
    feed, looks = Feed(), Looks()
    feed.bookmark()
    async with controlling(kv, feed, looks):
        await kv.put(key(THING), b"1")
        await looks.until(lambda: looks.seen and looks.seen[-1][1] == b"1")
        await kv.put(key(THING), b"2")
        await looks.until(lambda: looks.seen[-1][1] == b"2")
        await kv.txn([], [Delete(key(THING))])
        await looks.until(lambda: looks.seen[-1][1] is None)


async def test_the_owner_is_looked_at_for_its_workloads_even_when_it_is_gone(kv: MemoryKV) -> None:
    feed, looks = Feed(), Looks()
    feed.bookmark()
    async with controlling(kv, feed, looks):
        feed.tell("projects/p/workloads/w")
        await looks.until(lambda: (THING, None, ["projects/p/workloads/w"]) in looks.seen)
        feed.tell("projects/p/workloads/w", event=WatchWorkloadsResponse.DELETED)
        await looks.until(lambda: looks.seen[-1] == (THING, None, []))


async def test_workloads_of_other_owners_and_other_projects_are_none_of_its_business(kv: MemoryKV) -> None:
    feed, looks = Feed(), Looks()
    feed.tell("projects/p/workloads/w", owner="projects/p/jobs/j")
    feed.tell("projects/q/workloads/w")  # another project's, which claims to be ours
    feed.bookmark()
    async with controlling(kv, feed, looks):
        await kv.put(key(THING), b"1")
        await looks.until(lambda: looks.seen)
    assert looks.seen == [(THING, b"1", [])]


async def test_what_was_just_created_is_remembered_until_the_feed_tells_better(kv: MemoryKV) -> None:
    feed, looks = Feed(), Looks()
    feed.bookmark()
    async with controlling(kv, feed, looks) as controller:
        await kv.put(key(THING), b"1")
        await looks.until(lambda: looks.seen)
        controller.remember(Workload(name="projects/p/workloads/w", owner=THING))
        assert [workload.name for workload in controller.owned(THING)] == ["projects/p/workloads/w"]
        feed.messages.put_nowait(
            WatchWorkloadsResponse(
                event=WatchWorkloadsResponse.CHANGED,
                workload=Workload(name="projects/p/workloads/w", owner=THING, state=Workload.RUNNING),
            )
        )
        await looks.until(lambda: len(looks.seen) == 2)
        late = controller.remember(Workload(name="projects/p/workloads/w", owner=THING, state=Workload.PENDING))
        assert late.state == Workload.RUNNING


async def test_what_fails_is_tried_again(kv: MemoryKV) -> None:
    feed, looks = Feed(), Looks()
    feed.bookmark()

    def fail_once() -> None:
        looks.act = lambda: None
        raise Unavailable("TRY_AGAIN")

    looks.act = fail_once
    async with controlling(kv, feed, looks):
        await kv.put(key(THING), b"1")
        await looks.until(lambda: len(looks.seen) == 2)


async def test_a_bug_ends_the_service_rather_than_being_passed_over(kv: MemoryKV) -> None:
    feed, looks = Feed(), Looks()
    feed.bookmark()

    def bug() -> None:
        raise KeyError("a bug")

    looks.act = bug
    await kv.put(key(THING), b"1")
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(10):
            await controller_of(kv, feed, looks).run()


async def test_looking_again_is_planned_once_and_the_sooner_wins(kv: MemoryKV) -> None:
    feed, looks = Feed(), Looks()
    feed.bookmark()
    async with controlling(kv, feed, looks) as controller:
        await kv.put(key(THING), b"1")
        await looks.until(lambda: looks.seen)
        for after_s in (3600.0, 0.01, 3600.0, 0.02):
            controller.look_again(THING, after_s)
        await looks.until(lambda: len(looks.seen) == 2)
        assert controller._again == {}


async def _leads_again(kv: MemoryKV, before: int) -> bool:
    entry = await kv.get(LEADER)
    return entry is not None and entry.create_revision > before


async def test_a_leader_that_comes_back_knows_nothing_of_before(kv: MemoryKV) -> None:
    feed, looks = Feed(), Looks()
    await kv.put(key(THING), b"1")
    feed.tell("projects/p/workloads/w")
    feed.bookmark()
    async with controlling(kv, feed, looks):
        await looks.until(lambda: looks.seen)
        entry = await kv.get(LEADER)
        assert entry is not None
        seen = len(looks.seen)
        kv.end_lease(entry.lease)
        first = entry.create_revision
        await until(lambda: _leads_again(kv, first))
        feed.bookmark()
        await looks.until(lambda: len(looks.seen) > seen)
    assert looks.seen[-1] == (THING, b"1", [])
    assert looks.guards[-1] != looks.guards[0]
