"""`client.workloads`: what runs on the fleet."""

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.client.secrets import complete
from lepton.client.watching import Change, Watch, awaited, in_states
from lepton.names import WorkloadName
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from lepton.scheduler.v1.workload_pb2 import Workload

_MOST_TOGETHER: Final = 5000
_MOST_BYTES: Final = 3 << 20  # of a message, which may have 4 MiB
ENDED: Final = frozenset({Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})


class Workloads(Group):
    """Creates, reads, lists, watches, changes, cancels and deletes workloads."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = SchedulerServiceStub(calls.channel("scheduler"))

    async def create(
        self, workload_id: str, workload: Workload, *, project: str | None = None, request_id: str = ""
    ) -> Workload:
        """A new workload. AlreadyExists."""
        parent = self._scope.parent(project)
        request = pb.CreateWorkloadRequest(
            parent=parent,
            workload_id=workload_id,
            workload=workload,
            request_id=request_id or new_request_id(),
        )
        _complete_secrets(request.workload, parent)
        return await self._calls.unary(self._stub.CreateWorkload, request)

    async def create_many(
        self, workloads: Mapping[str, Workload], *, project: str | None = None
    ) -> Mapping[str, pb.BatchCreateWorkloadsResponse.Result]:
        """New workloads by id, thousands of them in one call; a result's `code` (0: created) says what came of it.

        The ids of the requests are chosen here, so a call that is repeated makes nothing twice.
        """
        parent, results = self._scope.parent(project), dict[str, pb.BatchCreateWorkloadsResponse.Result]()
        requests = [
            pb.CreateWorkloadRequest(workload_id=workload_id, workload=workload, request_id=new_request_id())
            for workload_id, workload in workloads.items()
        ]
        for each in requests:
            _complete_secrets(each.workload, parent)
        for part in _parts(requests):
            request = pb.BatchCreateWorkloadsRequest(parent=parent, requests=part)
            answer = await self._calls.unary(self._stub.BatchCreateWorkloads, request)
            results |= {each.workload_id: result for each, result in zip(part, answer.results, strict=True)}
        return results

    async def get(self, workload: str) -> Workload:
        """A workload by id or name."""
        return await self._calls.unary(self._stub.GetWorkload, pb.GetWorkloadRequest(name=self._name(workload)))

    def list(self, *, project: str | None = None, page_size: int = 0) -> Listing[Workload]:
        """The workloads of a project."""
        parent = self._parent(project)

        async def page(token: str) -> Page[Workload]:
            request = pb.ListWorkloadsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListWorkloads, request)
            return answer.workloads, answer.next_page_token

        return Listing(page)

    async def watch(self, workload: str) -> AsyncGenerator[Workload, None]:
        """The workload as it is, then after every change; ends when it is deleted."""
        name = self._name(workload)
        async with aclosing(self._watch(str(WorkloadName.parse(name).parent)).changes()) as changes:
            async for change in changes:
                if change.resource.name != name:
                    continue
                if change.is_deleted:
                    return
                yield change.resource

    def watch_all(self, *, project: str | None = None, revision: int = 0) -> AsyncGenerator[Change[Workload], None]:
        """The workloads of a project (`-`: of all) as they are, then every change, for ever."""
        return self._watch(self._parent(project), revision).changes()

    async def wait(
        self,
        workload: str,
        *,
        states: int | Collection[int] = ENDED,
        until: Callable[[Workload], bool] | None = None,
        timeout_s: float | None = None,
    ) -> Workload:
        """The workload when it is in one of the states (or `until` says so), or has ended anyhow. DeadlineExceeded."""
        name, wished = self._name(workload), in_states(states)
        return await awaited(
            name,
            lambda: self.get(name),
            lambda known: self._watch(str(WorkloadName.parse(name).parent), known=(known,)),
            lambda each: (until(each) if until else each.state in wished) or each.state in ENDED,
            timeout_s,
        )

    async def update(self, workload: Workload, fields: Sequence[str]) -> Workload:
        """Change these fields of a workload that was read: `priority`, `hold`, `queue` while it waits,
        `expected_duration_s`, and the `groups` of one that serves. Aborted when it has changed since it was read."""
        request = pb.UpdateWorkloadRequest(workload=workload)
        request.update_mask.paths.extend(fields)
        return await self._calls.unary(self._stub.UpdateWorkload, request)

    async def cancel(self, workload: str, *, grace_s: int = 0) -> Workload:
        """Stop a workload; `wait` says when it has ended."""
        request = pb.CancelWorkloadRequest(name=self._name(workload), grace_s=grace_s)
        return await self._calls.unary(self._stub.CancelWorkload, request)

    async def delete(self, workload: str, *, etag: str = "") -> None:
        """Delete a workload that has ended."""
        request = pb.DeleteWorkloadRequest(name=self._name(workload), etag=etag)
        await self._calls.unary(self._stub.DeleteWorkload, request)

    def _watch(self, parent: str, revision: int = 0, known: Iterable[Workload] = ()) -> Watch[Workload]:
        return Watch(
            self._calls,
            Workload,
            lambda position: self._stub.WatchWorkloads(pb.WatchWorkloadsRequest(parent=parent, revision=position)),
            revision,
            known,
        )

    def _name(self, workload: str) -> str:
        return self._scope.name(WorkloadName, workload)

    def _parent(self, project: str | None) -> str:
        return "projects/-" if project in ("-", "projects/-") else self._scope.parent(project)


def _complete_secrets(workload: Workload, parent: str) -> None:
    for group in workload.groups:
        if group.program.HasField("torch"):
            complete(group.program.torch.secrets, parent)
        elif group.program.HasField("process"):
            complete(group.program.process.secrets, parent)


def _parts(requests: Sequence[pb.CreateWorkloadRequest]) -> Iterator[list[pb.CreateWorkloadRequest]]:
    """The requests in calls that the scheduler takes."""
    part: list[pb.CreateWorkloadRequest] = []
    size = 0
    for request in requests:
        more = request.ByteSize() + 8
        if part and (len(part) == _MOST_TOGETHER or size + more > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(request)
        size += more
    if part:
        yield part
