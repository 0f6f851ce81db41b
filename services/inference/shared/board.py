"""What this replica of the service knows of shared models and of the servers that have them, always up to date."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from chassis.kv import KV, follow
from lepton.internal.v1.model_server_pb2 import SharedModel
from lepton.scheduler.v1.scheduler_service_pb2 import WatchWorkloadsResponse
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference.shared.registry import SERVERS, SHARED, name_of, shared_models


class Feed(Protocol):
    """Where the scheduler's own workloads are heard of."""

    def watch(self) -> AsyncGenerator[WatchWorkloadsResponse, None]:
        """Every workload as it is, then every change, for ever."""
        ...


@dataclass(slots=True)
class SharedBoard:
    """The shared models by id, and the workloads of the shared servers by name."""

    kv: KV
    feed: Feed
    models: dict[str, SharedModel] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    is_complete: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the next change; then it is another event's turn."""

    async def run(self) -> None:
        """Follows both, for ever."""
        knows = (asyncio.Event(), asyncio.Event())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_models(knows[0]))
            tasks.create_task(self._follow_workloads(knows[1]))
            for each in knows:
                await each.wait()
            self.is_complete.set()

    def ready(self, project: str) -> Mapping[str, Slice]:
        """The slices of a project's servers that answer, by where they do."""
        workload = self.workloads.get(f"projects/{project}/workloads/{SERVERS}")
        return {
            piece.endpoints["grpc"]: piece
            for piece in (workload.slices if workload is not None else ())
            if piece.state == Slice.READY and "grpc" in piece.endpoints
        }

    async def _follow_models(self, knows: asyncio.Event) -> None:
        shared = shared_models(self.kv)
        async with aclosing(follow(self.kv, SHARED)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.entry is None:
                        self.models.pop(name_of(event.key), None)
                    else:
                        self.models[name_of(event.key)] = shared.of(event.entry)
                knows.set()
                self._tell()

    async def _follow_workloads(self, knows: asyncio.Event) -> None:
        async with aclosing(self.feed.watch()) as changes:
            async for change in changes:
                name = change.workload.name
                if change.event == WatchWorkloadsResponse.BOOKMARK:
                    knows.set()
                elif not name.endswith(f"/workloads/{SERVERS}"):
                    continue
                elif change.event == WatchWorkloadsResponse.DELETED:
                    self.workloads.pop(name, None)
                else:
                    self.workloads[name] = change.workload
                self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
