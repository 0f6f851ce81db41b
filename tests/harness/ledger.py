"""A scheduler without a planner: its requests, watches and records are real; the test says what is placed and ends."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty

from chassis.clock import SystemClock
from chassis.kv import Delete, Put, mod
from chassis.ledger import Ledger
from chassis.paging import Pager
from chassis.requests import Requests
from lepton.errors import LeptonError
from lepton.names import WorkloadName
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.scheduler_service_pb2_grpc import (
    SchedulerServiceServicer,
    add_SchedulerServiceServicer_to_server,
)
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.workloads import Workloads
from tests.harness.memory_kv import MemoryKV
from tests.harness.mesh import serving
from tests.harness.shown import shown

T = TypeVar("T")


class ScriptedLedger(SchedulerServiceServicer):
    """The workloads of a scheduler whose leader is the test."""

    def __init__(self, kv: MemoryKV, pager: Pager) -> None:
        self.kv = kv
        self._workloads = Workloads(kv, Requests(kv, keys.REQUESTS), pager, SystemClock())
        self.calls: Counter[str] = Counter()
        self._faults: dict[tuple[str, int, bool], LeptonError] = {}
        self.watching = asyncio.Event()
        self.cut = asyncio.Event()

    def fail(self, method: str, error: LeptonError, *, at: int = 1, after: bool = False) -> None:
        """The call of a method with this number fails, before or after it has had its effect."""
        self._faults[method, at, after] = error

    async def CreateWorkload(self, request: pb.CreateWorkloadRequest, context: Any) -> Workload:
        return await self._call("CreateWorkload", lambda: self._workloads.create(request))

    async def GetWorkload(self, request: pb.GetWorkloadRequest, context: Any) -> Workload:
        return await self._call("GetWorkload", lambda: self._workloads.get(WorkloadName.parse(request.name)))

    async def UpdateWorkload(self, request: pb.UpdateWorkloadRequest, context: Any) -> Workload:
        return await self._call("UpdateWorkload", lambda: self._workloads.update(request))

    async def CancelWorkload(self, request: pb.CancelWorkloadRequest, context: Any) -> Workload:
        name = WorkloadName.parse(request.name)
        return await self._call("CancelWorkload", lambda: self._workloads.cancel(name, request.grace_s))

    async def DeleteWorkload(self, request: pb.DeleteWorkloadRequest, context: Any) -> Empty:
        name = WorkloadName.parse(request.name)
        await self._call("DeleteWorkload", lambda: self._workloads.delete(name, request.etag))
        return Empty()

    async def ReportWorkloadProgress(self, request: pb.ReportWorkloadProgressRequest, context: Any) -> Empty:
        await self._call("ReportWorkloadProgress", lambda: self._workloads.report_progress(request))
        return Empty()

    async def WatchWorkloads(
        self, request: pb.WatchWorkloadsRequest, context: Any
    ) -> AsyncIterator[pb.WatchWorkloadsResponse]:
        self.calls["WatchWorkloads"] += 1
        async for response in self._workloads.watch(request):
            self._raise("WatchWorkloads", after=False)
            yield response

    async def _call(self, method: str, act: Callable[[], Awaitable[T]]) -> T:
        self.calls[method] += 1
        self._raise(method, after=False)
        answer = await act()
        self._raise(method, after=True)
        return answer

    def _raise(self, method: str, *, after: bool) -> None:
        error = self._faults.pop((method, self.calls[method], after), None)
        if error is not None:
            raise error

    async def names(self) -> list[str]:
        """Every workload there is."""
        page = await self.kv.list(keys.WORKLOADS)
        return [Workload.FromString(entry.value).name for entry in page.entries]

    async def workload(self, name: str, condition: Callable[[Workload], object] = lambda _: True) -> Workload:
        """A workload as soon as it exists and is as wished."""
        key = keys.workload(WorkloadName.parse(name))
        found: Workload = await shown(self.kv, key, Workload, lambda w: w is not None and condition(w))
        return found

    async def gone(self, name: str) -> None:
        """Returns once there is no such workload."""
        await shown(self.kv, keys.workload(WorkloadName.parse(name)), Workload, lambda current: current is None)

    async def forget(self, name: str) -> None:
        """An operator deletes a workload, whatever its state."""
        await self.kv.txn([], [Delete(keys.workload(WorkloadName.parse(name)))])

    async def change(self, name: str, **fields: Any) -> Workload:
        """The leader's write: these fields of a workload."""
        key = keys.workload(WorkloadName.parse(name))
        while True:
            entry = await self.kv.get(key)
            assert entry is not None, f"there is no {name}"
            workload = Workload.FromString(entry.value)
            for field, value in fields.items():
                if field in ("slices", "groups"):
                    workload.ClearField(field)
                    getattr(workload, field).extend(value)
                else:
                    setattr(workload, field, value)
            done = await self.kv.txn([mod(key, entry.mod_revision)], [_put(key, workload)])
            if done.succeeded:
                return workload

    async def place(self, name: str, generation: int = 1, nodes: int = 1) -> None:
        """Gives a workload its slices, on nodes n1, n2, ..."""
        workload = await self.workload(name)
        group = workload.groups[0]
        slices = [
            Slice(index=at, group=group.name, node=f"pools/p/nodes/n{1 + at % nodes}", state=Slice.ASSIGNED)
            for at in range(group.min_count)
        ]
        await self.change(name, state=Workload.ASSIGNED, generation=generation, slices=slices, message="")

    async def run(self, name: str) -> None:
        """Every slice runs."""
        workload = await self.workload(name)
        slices = [_with(piece, state=Slice.RUNNING) for piece in workload.slices]
        await self.change(name, state=Workload.RUNNING, slices=slices)

    async def end(self, name: str, state: Any, message: str = "", outputs: Mapping[str, str] | None = None) -> None:
        """It is over."""
        workload = await self.workload(name)
        how = {Workload.SUCCEEDED: Slice.SUCCEEDED, Workload.FAILED: Slice.FAILED}.get(state, Slice.STOPPED)
        slices = [_with(piece, state=how, outputs=outputs or {}) for piece in workload.slices]
        await self.change(name, state=state, message=message, slices=slices)

    async def ready(self, name: str, *indices: int, state: Any = Slice.READY) -> None:
        """These replicas answer, at 127.0.0.1:9000 + index; as many others as are wanted run."""
        workload = await self.workload(name)
        count = workload.groups[0].min_count
        slices = []
        for at in range(count):
            endpoints = {"grpc": f"127.0.0.1:{9000 + at}"} if at in indices else {}
            slices.append(
                Slice(
                    index=at,
                    group=workload.groups[0].name,
                    node="pools/p/nodes/n1",
                    state=state if at in indices else Slice.RUNNING,
                    endpoints=endpoints,
                )
            )
        await self.change(name, state=Workload.RUNNING, slices=slices, generation=max(1, workload.generation))


async def scripted(kv: MemoryKV) -> ScriptedLedger:
    """A scripted scheduler that nobody reaches yet. Its pools are UNIMPLEMENTED."""
    return ScriptedLedger(kv, await Pager.open(kv, "/lepton/scheduler/page_key"))  # type: ignore[abstract]


@asynccontextmanager
async def scripted_ledger(caller: str) -> AsyncIterator[tuple[ScriptedLedger, Ledger]]:
    """A scripted scheduler on a real server, and the ledger of `service/<caller>` that speaks to it."""
    async with MemoryKV() as kv:
        scheduler = await scripted(kv)
        async with (
            serving((add_SchedulerServiceServicer_to_server, scheduler), name="scheduler") as mesh,
            mesh.peer(f"service/{caller}") as peers,
        ):
            yield scheduler, Ledger(peers.channel("scheduler"))


def _put(key: str, workload: Workload) -> Any:
    return Put(key, stored(workload))


def _with(piece: Slice, **changes: Any) -> Slice:
    changed = Slice()
    changed.CopyFrom(piece)
    changed.MergeFrom(Slice(**changes))
    return changed
