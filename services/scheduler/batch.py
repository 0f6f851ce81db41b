"""Many workloads created at once: each stands alone, and as many as can be share a transaction."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from chassis import telemetry
from chassis.clock import Clock
from chassis.kv import KV, Get, KVError, LeaseNotFound, Op, OpResult, OutcomeUnknown, Put, Unavailable, absent
from chassis.middleware.validation import Validation
from chassis.quick_check import proof_of
from chassis.requests import Claim, Requests
from lepton import errors
from lepton.errors import Aborted, AlreadyExists, InvalidArgument, LeptonError
from lepton.names import ProjectName
from lepton.scheduler.v1 import scheduler_service_pb2 as service
from lepton.scheduler.v1 import workload_pb2
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.wishes import check_jobs, check_wishes

Workload = workload_pb2.Workload
Result = service.BatchCreateWorkloadsResponse.Result

MAX_OPS: Final = 50
MAX_BYTES: Final = 1 << 20  # of one transaction, and of one document
IN_FLIGHT: Final = 8
_ATTEMPTS: Final = 8
_REMEMBERED: Final = 1024  # shapes of workloads
_MOST_REMEMBERED_BYTES: Final = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What is alike in many workloads, checked and serialised once: all but what is each one's own."""

    document: bytes
    has_trace: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One workload to be written."""

    at: int
    request: service.CreateWorkloadRequest
    name: str
    key: str
    uid: str
    document: bytes
    claim: Claim

    @property
    def then(self) -> tuple[Op, ...]:
        """What it writes."""
        return Put(self.key, self.document), *self.claim.record_bytes(self.document, self.name)

    @property
    def size(self) -> int:
        """About how many bytes that is."""
        return len(self.document) * (2 if self.claim.key else 1) + 256


async def one_by_one(
    request: service.BatchCreateWorkloadsRequest,
    create: Callable[[service.CreateWorkloadRequest], Awaitable[Workload]],
) -> service.BatchCreateWorkloadsResponse:
    """The same batch for a caller whose workloads are counted: each is admitted, or not, behind the one before it."""
    results = [Result() for _ in request.requests]
    check = Validation().check_of(service.CreateWorkloadRequest.DESCRIPTOR)
    for each, result in zip(request.requests, results, strict=True):
        try:
            each.parent = each.parent or request.parent
            check(each)
            if each.parent != request.parent:
                raise InvalidArgument("INVALID_FIELD", fields={"parent": "must be empty, or the parent of the batch"})
            made = await create(each)
            _accept(result, made.name, made.uid)
        except LeptonError as error:
            _refuse(result, error)
    return service.BatchCreateWorkloadsResponse(results=results)


class Batches:
    """Creates batches. A repeat of a batch creates what is missing of it; ids of requests make it exactly-once."""

    def __init__(self, kv: KV, requests: Requests, clock: Clock) -> None:
        self._kv = kv
        self._requests = requests
        self._clock = clock
        self._check = Validation().check_of(service.CreateWorkloadRequest.DESCRIPTOR)
        self._proves = proof_of(service.CreateWorkloadRequest.DESCRIPTOR) or (lambda _: False)
        self._shapes: dict[bytes, _Shape] = {}

    async def create(self, request: service.BatchCreateWorkloadsRequest) -> service.BatchCreateWorkloadsResponse:
        """What became of each workload, in the order of the requests."""
        parent = ProjectName.parse(request.parent, "parent")
        results = [Result() for _ in request.requests]
        for wave in _waves(request.requests):
            parts = _parts(wave)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(IN_FLIGHT):
                    tasks.create_task(self._create_parts(parent, request.requests, parts, results))
        return service.BatchCreateWorkloadsResponse(results=results)

    async def _create_parts(
        self,
        parent: ProjectName,
        requests: Sequence[service.CreateWorkloadRequest],
        parts: Iterator[Sequence[int]],
        results: Sequence[Result],
    ) -> None:
        for part in parts:
            await self._create_part(parent, requests, part, results)

    async def _create_part(
        self,
        parent: ProjectName,
        requests: Sequence[service.CreateWorkloadRequest],
        part: Iterable[int],
        results: Sequence[Result],
    ) -> None:
        items: list[_Item] = []
        for at in part:
            try:
                items.append(await self._item(parent, at, requests[at]))
            except LeptonError as error:
                _refuse(results[at], error)
        for batch in _batches(items):
            await self._write(batch, results)

    async def _item(self, parent: ProjectName, at: int, request: service.CreateWorkloadRequest) -> _Item:
        """One workload, checked as a request of its own would be."""
        if not request.parent:
            request.parent = str(parent)
        shape = self._shape(request)
        if request.parent != str(parent):
            raise InvalidArgument("INVALID_FIELD", fields={"parent": "must be empty, or the parent of the batch"})
        check_jobs(request.workload, parent, "workload")  # not with the shape, which projects share
        name, uid = f"{parent}/workloads/{request.workload_id}", str(uuid.uuid4())
        own = Workload(name=name, uid=uid, state=Workload.PENDING, pending_reason=Workload.PENDING_EVALUATION)
        own.create_time.FromNanoseconds(int(self._clock.now().timestamp() * 1e9) + at)  # the order of the requests
        own.update_time.CopyFrom(own.create_time)
        if not shape.has_trace:
            own.trace_context = telemetry.traceparent()
        document = shape.document + own.SerializeToString()  # on the wire, to append is to merge
        if len(document) > MAX_BYTES // 2:
            raise InvalidArgument("INVALID_FIELD", fields={"workload": f"is larger than {MAX_BYTES // 2} bytes"})
        return _Item(
            at=at,
            request=request,
            name=name,
            key=f"{keys.WORKLOADS}{parent.project}/{request.workload_id}",
            uid=uid,
            document=document,
            claim=await self._requests.claim(request),
        )

    def _shape(self, request: service.CreateWorkloadRequest) -> _Shape:
        """The part of a workload that others may share; what was checked for one holds for all of them."""
        name = request.workload.name
        request.workload.name = ""
        sent = request.workload.SerializeToString()
        request.workload.name = name
        shape = self._shapes.get(sent)
        own = service.CreateWorkloadRequest(
            parent=request.parent, workload_id=request.workload_id, request_id=request.request_id
        )
        if shape is not None and self._proves(own):
            return shape
        checked = service.CreateWorkloadRequest()
        checked.CopyFrom(request)  # the check clears what only we may set, and the record's digest is of what was sent
        self._check(checked)
        check_wishes(checked.workload, "workload")
        checked.workload.kind = checked.workload.kind or Workload.BATCH
        checked.workload.name = ""
        shape = _Shape(document=stored(checked.workload), has_trace=bool(checked.workload.trace_context))
        if len(sent) <= _MOST_REMEMBERED_BYTES:
            if len(self._shapes) >= _REMEMBERED:
                del self._shapes[next(iter(self._shapes))]
            self._shapes[sent] = shape
        return shape

    async def _write(self, items: Sequence[_Item], results: Sequence[Result]) -> None:
        """Write until each is there or refused. The uid tells after a lost answer whether it was our write."""
        left, error = list(items), LeptonError("UNKNOWN")
        for _ in range(_ATTEMPTS):
            compare = [each for item in left for each in (absent(item.key), *item.claim.guard)]
            look = [Get(key) for item in left for key in (item.key, item.claim.key) if key]
            try:
                result = await self._kv.txn(compare, [op for item in left for op in item.then], look)
            except LeaseNotFound:
                self._requests.forget_lease()
                left = [replace(item, claim=await self._requests.claim(item.request)) for item in left]
                error = Aborted("WRITE_CONFLICT")
            except OutcomeUnknown:
                error = errors.Unavailable("OUTCOME_UNKNOWN", retry_after_s=1.0)
            except KVError as failure:
                error = errors.Unavailable("STORE_UNAVAILABLE", retry_after_s=1.0)
                if not isinstance(failure, Unavailable):
                    break
            else:
                if result.succeeded:
                    for item in left:
                        _accept(results[item.at], item.name, item.uid)
                    return
                found = iter(result.responses)
                left = [item for item in left if not self._settle(item, found, results[item.at])]
                error = Aborted("WRITE_CONFLICT")
            if not left:
                return
        for item in left:
            _refuse(results[item.at], error)

    def _settle(self, item: _Item, found: Iterator[OpResult], result: Result) -> bool:
        """Whether what lies in the store decides about one item."""
        there = next(found).entry
        record = next(found).entry if item.claim.key else None
        try:
            if record is not None:
                answer = self._requests.recall(item.request, record, Workload)
                _accept(result, answer.name, answer.uid)
            elif there is not None:
                if Workload.FromString(there.value).uid != item.uid:
                    raise AlreadyExists("WORKLOAD_ALREADY_EXISTS", workload=item.name)
                _accept(result, item.name, item.uid)
            else:
                return False
        except LeptonError as error:
            _refuse(result, error)
        return True


def _waves(requests: Sequence[service.CreateWorkloadRequest]) -> Iterator[list[int]]:
    """The requests, so that those that meet the same key come one after the other."""
    rest = range(len(requests))
    while rest:
        seen: set[str] = set()
        wave, later = list[int](), list[int]()
        for at in rest:
            wanted = {f"id {requests[at].workload_id}", f"request {requests[at].request_id or at}"}
            (later if seen & wanted else wave).append(at)
            seen |= wanted
        yield wave
        rest = later  # type: ignore[assignment]


def _parts(wave: Sequence[int]) -> Iterator[Sequence[int]]:
    return (wave[start : start + MAX_OPS] for start in range(0, len(wave), MAX_OPS))


def _batches(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Groups that stay within the limits of a transaction."""
    batch: list[_Item] = []
    ops = size = 0
    for item in items:
        more = 2 if item.claim.key else 1
        if batch and (ops + more > MAX_OPS or size + item.size > MAX_BYTES):
            yield batch
            batch, ops, size = [], 0, 0
        batch.append(item)
        ops, size = ops + more, size + item.size
    if batch:
        yield batch


def _accept(result: Result, name: str, uid: str) -> None:
    result.name, result.uid = name, uid


def _refuse(result: Result, error: LeptonError) -> None:
    code: int = error.code.value[0]
    result.code, result.message = code, str(error)
