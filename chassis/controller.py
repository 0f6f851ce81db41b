"""A service's leader: looks at a resource whenever it, or a workload that it owns, has changed."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, Protocol

from chassis import kv as store
from chassis.election import Election, Leadership
from chassis.kv import KV, Compare, Entry, follow
from chassis.logs import logger
from lepton.errors import LeptonError
from lepton.scheduler.v1.scheduler_service_pb2 import WatchWorkloadsResponse
from lepton.scheduler.v1.workload_pb2 import Workload

log = logger(__name__)
_RETRY_S: Final = 0.5

Reconcile = Callable[[str, Entry | None, Compare], Awaitable[None]]
"""Acts on a resource, given its name and entry (None: it is gone); every write carries the guard. May be repeated."""


class WorkloadFeed(Protocol):
    """Where a controller hears of workloads."""

    def watch(self) -> AsyncIterator[WatchWorkloadsResponse]:
        """Every workload of every project as it is, then every change, for ever."""
        ...


class Controller:
    """Leads when it can; while it leads, calls `reconcile` for every resource that may need something done.

    The resources are those under `prefix`, `name_of` gives the name that a key stands for. A workload belongs to the
    resource that its `owner` names, if `owns` knows such names: it is looked at even when there is no such resource.
    A reconciliation that fails with a typed error is tried again.
    """

    def __init__(
        self,
        kv: KV,
        election: Election,
        feed: WorkloadFeed,
        *,
        prefix: str,
        name_of: Callable[[str], str],
        owns: Callable[[str], bool],
        reconcile: Reconcile,
    ) -> None:
        self._kv, self._election, self._feed = kv, election, feed
        self._prefix, self._name_of, self._owns, self._reconcile = prefix, name_of, owns, reconcile
        self._entries: dict[str, Entry] = {}
        self._workloads: dict[str, Workload] = {}
        self._owned: defaultdict[str, set[str]] = defaultdict(set)
        self._again: dict[str, asyncio.TimerHandle] = {}

    def workload(self, name: str) -> Workload | None:
        """A workload as last heard of; None when there is none."""
        return self._workloads.get(name)

    def owned(self, owner: str) -> list[Workload]:
        """Every workload of its project that says it is the resource's."""
        names = sorted(self._owned.get(owner, ()))
        return [self._workloads[name] for name in names if _project(name) == _project(owner)]

    def remember(self, workload: Workload) -> Workload:
        """Takes note of a workload just created, which the feed has not told of yet; what the feed told stands."""
        if workload.name not in self._workloads:
            self._know(workload)
        return self._workloads[workload.name]

    def look_again(self, name: str, after_s: float) -> None:
        """Calls `reconcile` for a resource again in a while, though nothing may have changed by then."""
        loop = asyncio.get_running_loop()
        planned = self._again.get(name)
        if planned is not None:
            if planned.when() <= loop.time() + after_s:
                return  # it will be looked at even sooner
            planned.cancel()
        self._again[name] = loop.call_later(after_s, self._look_at, name)

    def look_at_all(self) -> None:
        """Calls `reconcile` for every resource: something that all depend on has changed. Nothing without a lead."""
        for name in self._entries:
            self.look_again(name, 0)

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        while True:
            async with self._election.lead() as leadership:
                log.info("leading", of=self._prefix)
                await self._lead(leadership)
                log.warning("leadership lost", of=self._prefix)

    async def _lead(self, leadership: Leadership) -> None:
        # Nothing of a former leadership: another leader may have acted since.
        self._entries.clear()
        self._workloads.clear()
        self._owned.clear()
        self._waiting: set[str] = set()
        self._to_do: asyncio.Queue[str] = asyncio.Queue()
        self._knows_resources, self._knows_workloads = asyncio.Event(), asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._follow_resources()),
                    tasks.create_task(self._follow_workloads()),
                    tasks.create_task(self._work(leadership.guard)),
                ]
                await leadership.lost.wait()
                for task in running:
                    task.cancel()
        finally:
            for planned in self._again.values():
                planned.cancel()
            self._again.clear()

    async def _follow_resources(self) -> None:
        async with aclosing(follow(self._kv, self._prefix)) as batches:
            async for batch in batches:
                for event in batch.events:
                    name = self._name_of(event.key)
                    if event.entry is None:
                        self._entries.pop(name, None)
                    else:
                        self._entries[name] = event.entry
                    self._look_at(name)
                self._knows_resources.set()

    async def _follow_workloads(self) -> None:
        async for change in self._feed.watch():
            if change.event == WatchWorkloadsResponse.CHANGED:
                self._know(change.workload)
                self._look_at_owner(change.workload)
            elif change.event == WatchWorkloadsResponse.DELETED:
                gone = self._workloads.pop(change.workload.name, None)
                if gone is not None:
                    self._owned[gone.owner].discard(gone.name)
                    self._look_at_owner(gone)
            elif change.event == WatchWorkloadsResponse.BOOKMARK:
                self._knows_workloads.set()

    def _know(self, workload: Workload) -> None:
        self._workloads[workload.name] = workload
        self._owned[workload.owner].add(workload.name)

    def _look_at_owner(self, workload: Workload) -> None:
        # Whoever may create workloads in one project has no say over the resources of another.
        if self._owns(workload.owner) and _project(workload.owner) == _project(workload.name):
            self._look_at(workload.owner)

    def _look_at(self, name: str) -> None:
        planned = self._again.pop(name, None)
        if planned is not None:
            planned.cancel()
        if name not in self._waiting:
            self._waiting.add(name)
            self._to_do.put_nowait(name)

    async def _work(self, guard: Compare) -> None:
        # What we merely have not heard of yet must not look as if it did not exist.
        await self._knows_resources.wait()
        await self._knows_workloads.wait()
        while True:
            name = await self._to_do.get()
            self._waiting.discard(name)
            try:
                await self._reconcile(name, self._entries.get(name), guard)
            except (LeptonError, store.KVError) as error:
                log.warning("not reconciled yet", resource=name, error=str(error))
                self.look_again(name, _RETRY_S)


def _project(name: str) -> str:
    return "/".join(name.split("/", 2)[:2])
