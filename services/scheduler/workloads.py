"""Workloads as clients see them: created, read, watched, changed, cancelled and deleted; the leader does the rest."""

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from chassis import telemetry
from chassis.access import PolicyReplica
from chassis.callers import caller, creator
from chassis.clock import Clock
from chassis.compliance import Compliance, asked_by
from chassis.conditions import Attributes
from chassis.etags import etag as etag_at
from chassis.etags import unchanged
from chassis.holdings import Admitted, Limits, Unlimited
from chassis.kv import KV, Compare, Delete, DeletePrefix, Entry, Op, Put, absent, mod
from chassis.paging import Pager
from chassis.requests import Claim, Requests
from chassis.watching import changes
from lepton.compliance.subjects import of_workload
from lepton.errors import Aborted, AlreadyExists, FailedPrecondition
from lepton.internal.v1 import ledger_pb2
from lepton.names import ProjectName, WorkloadName, not_found
from lepton.scheduler.v1 import scheduler_service_pb2 as service
from lepton.scheduler.v1 import workload_pb2
from services.scheduler import keys
from services.scheduler.admission_checks import with_check
from services.scheduler.batch import Batches, one_by_one
from services.scheduler.convert.documents import stored
from services.scheduler.convert.moments import timestamp
from services.scheduler.counting import devices_of
from services.scheduler.lifecycle import ENDED, OVER
from services.scheduler.nodes import ANY
from services.scheduler.planner.verdict import CANCELLED, GRACE_S
from services.scheduler.progress import with_progress
from services.scheduler.snapshot import State
from services.scheduler.wishes import apply_update, check_jobs, check_wishes

Workload = workload_pb2.Workload
_ATTEMPTS: Final = 8
_FREELY: Final = Admitted()


class Workloads:
    """What any replica does with workloads; each change is one transaction on what was read."""

    def __init__(
        self,
        kv: KV,
        requests: Requests,
        pager: Pager,
        clock: Clock,
        limits: Limits | None = None,
        access: PolicyReplica | None = None,
        compliance: Compliance | None = None,
    ) -> None:
        self._limits, self._access = limits or Unlimited(), access
        self._compliance = compliance or Compliance()
        self._kv = kv
        self._requests = requests
        self._pager = pager
        self._clock = clock
        self._batches = Batches(kv, requests, clock)

    async def create(self, request: service.CreateWorkloadRequest) -> Workload:
        """A new workload, PENDING."""
        check_wishes(request.workload, "workload")
        check_jobs(request.workload, ProjectName.parse(request.parent, "parent"), "workload")
        return await self._requests.once(request, Workload, lambda claim: self._create(request, claim))

    async def _create(self, request: service.CreateWorkloadRequest, claim: Claim) -> Workload | None:
        name = WorkloadName(ProjectName.parse(request.parent, "parent").project, request.workload_id)
        workload = Workload()
        workload.CopyFrom(request.workload)
        now = timestamp(self._clock.now())
        workload.name, workload.uid = str(name), str(uuid.uuid4())
        workload.kind = workload.kind or Workload.BATCH
        workload.trace_context = workload.trace_context or telemetry.traceparent()
        workload.state, workload.pending_reason = Workload.PENDING, Workload.PENDING_EVALUATION
        workload.create_time.CopyFrom(now)
        workload.update_time.CopyFrom(now)
        workload.creator = creator()
        self._check_compliance(workload)
        key = keys.workload(name)
        put = [Put(key, stored(workload)), *claim.record(workload, str(name))]
        async with self._limits.admit(workload.creator, devices_of(workload)) as admitted:
            result = await self._kv.txn([absent(key), *claim.guard, *admitted.guard], [*put, *admitted.ops])
        if not result.succeeded:
            if await self._kv.get(key) is not None:
                raise AlreadyExists("WORKLOAD_ALREADY_EXISTS", workload=str(name))
            return None
        workload.etag = etag_at(result.revision)
        return workload

    async def create_many(self, request: service.BatchCreateWorkloadsRequest) -> service.BatchCreateWorkloadsResponse:
        """New workloads, PENDING; the answer says of each what became of it."""
        if self._limits.counts(creator()) or (creator() and any(self._compliance.rulebook.in_force(request.parent))):
            return await one_by_one(request, self.create)
        return await self._batches.create(request)

    async def get(self, name: WorkloadName) -> Workload:
        """A workload."""
        return _shown(await self._read(name))

    async def list(self, request: service.ListWorkloadsRequest) -> service.ListWorkloadsResponse:
        """A page of workloads."""
        page = await self._pager.page(_prefix(request.parent), request)
        return service.ListWorkloadsResponse(workloads=map(_shown, page.entries), next_page_token=page.next_page_token)

    async def watch(
        self, request: service.WatchWorkloadsRequest
    ) -> AsyncGenerator[service.WatchWorkloadsResponse, None]:
        """The workloads as they are, then every change."""
        response = service.WatchWorkloadsResponse
        async with aclosing(changes(self._kv, _prefix(request.parent), request.revision)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.entry is not None:
                        yield response(event=response.CHANGED, workload=_shown(event.entry), revision=event.revision)
                    else:
                        project, _, workload_id = event.key.removeprefix(keys.WORKLOADS).partition("/")
                        gone = Workload(name=str(WorkloadName(project, workload_id)))
                        yield response(event=response.DELETED, workload=gone, revision=event.revision)
                if not batch.events:
                    yield response(event=response.BOOKMARK, revision=batch.revision)

    async def update(self, request: service.UpdateWorkloadRequest) -> Workload:
        """Change what is wanted; the leader makes it so."""
        name = WorkloadName.parse(request.workload.name, "workload.name")
        return await self._change(name, lambda entry, workload: self._update(entry, workload, request))

    async def _update(
        self, entry: Entry, workload: Workload, request: service.UpdateWorkloadRequest
    ) -> Workload | None:
        unchanged(entry, request.workload.etag, workload.name)
        if State(workload.state) in OVER:
            raise FailedPrecondition("WORKLOAD_ENDED", workload=workload.name, state=State(workload.state).name)
        changed = apply_update(workload, request)
        check_wishes(changed, "workload")
        check_jobs(changed, WorkloadName.parse(changed.name).parent, "workload")
        self._check_conditions(changed)
        if changed.groups != workload.groups:
            self._check_compliance(changed)
        async with self._limits.admit(changed.creator, devices_of(changed), entry.key) as admitted:
            return await self._amend(entry, changed, admitted)

    async def cancel(self, name: WorkloadName, grace_s: float, why: str = "cancelled on request") -> Workload:
        """Tell its slices to stop; it is CANCELLED once nothing of it runs. Too late, it changes nothing."""
        return await self._change(name, lambda entry, workload: self._cancel(entry, workload, name, grace_s, why))

    async def _cancel(
        self, entry: Entry, workload: Workload, name: WorkloadName, grace_s: float, why: str
    ) -> Workload | None:
        if State(workload.state) in OVER:
            return _shown(entry)
        now = timestamp(self._clock.now())
        workload.state, workload.pending_reason = Workload.CANCELLING, Workload.PENDING_REASON_UNSPECIFIED
        workload.message = why
        workload.update_time.CopyFrom(now)
        assigned = await self._kv.get(keys.assignment(name, workload.generation))
        if assigned is None:
            return await self._write(workload, [mod(entry.key, entry.mod_revision)], [_put(entry, workload)])
        assignment = ledger_pb2.Assignment.FromString(assigned.value)
        if not assignment.HasField("revoke_time"):
            assignment.revoke_time.CopyFrom(now)
            assignment.grace_s, assignment.revoke_reason = grace_s or GRACE_S, CANCELLED
        return await self._write(
            workload,
            [mod(entry.key, entry.mod_revision), mod(assigned.key, assigned.mod_revision)],
            [_put(entry, workload), Put(assigned.key, stored(assignment))],
        )

    async def set_admission_check(self, request: service.SetAdmissionCheckRequest) -> Workload:
        """What a check says of a workload; the leader admits it once all of them agree."""
        name = WorkloadName.parse(request.name)
        return await self._change(name, lambda entry, workload: self._amend(entry, with_check(workload, request)))

    async def report_progress(self, request: service.ReportWorkloadProgressRequest) -> None:
        """How a workload gets on; what is no news is not written."""
        name, now = WorkloadName.parse(request.name), timestamp(self._clock.now())
        await self._change(name, lambda entry, workload: self._amend(entry, with_progress(workload, request, now)))

    def _check_conditions(self, changed: Workload) -> None:
        """Who changes a workload must be allowed to have it as it is then: in its pools, at its priority."""
        who = caller()
        if self._access is not None and who is not None:
            asked = Attributes(pools=tuple(changed.pools), priority=changed.priority)
            self._access.require(who, "workloads.update", changed.name, asked)

    def _check_compliance(self, workload: Workload) -> None:
        """What a service makes, it has judged by what it is for; of all others the labels say where they may be."""
        if workload.creator:
            self._compliance.admit(of_workload(workload, asked_by()))

    async def _amend(self, entry: Entry, changed: Workload | None, admitted: Admitted = _FREELY) -> Workload | None:
        """Write what has changed, if anything has."""
        if changed is None:
            return _shown(entry)
        changed.update_time.CopyFrom(timestamp(self._clock.now()))
        compare = [mod(entry.key, entry.mod_revision), *admitted.guard]
        return await self._write(changed, compare, [_put(entry, changed), *admitted.ops])

    async def delete(self, name: WorkloadName, etag: str) -> None:
        """Forget a workload that has ended."""
        entry = await self._read(name)
        condition = unchanged(entry, etag, name)
        workload = Workload.FromString(entry.value)
        if State(workload.state) not in ENDED:
            raise FailedPrecondition("WORKLOAD_NOT_ENDED", workload=str(name), state=State(workload.state).name)
        ops: list[Op] = [Delete(entry.key)]
        ops += [
            DeletePrefix(f"{prefix}{name.project}/{name.workload}/") for prefix in (keys.ASSIGNMENTS, keys.STATUSES)
        ]
        result = await self._kv.txn([condition], ops)
        if not result.succeeded:
            raise Aborted("WRITE_CONFLICT", name=str(name))

    async def _change(
        self, name: WorkloadName, change: Callable[[Entry, Workload], Awaitable[Workload | None]]
    ) -> Workload:
        """Read and change until nobody else has written in between."""
        for _ in range(_ATTEMPTS):
            entry = await self._read(name)
            changed = await change(entry, Workload.FromString(entry.value))
            if changed is not None:
                return changed
        raise Aborted("WRITE_CONFLICT", name=str(name))

    async def _read(self, name: WorkloadName) -> Entry:
        entry = await self._kv.get(keys.workload(name))
        if entry is None:
            raise not_found(name)
        return entry

    async def _write(self, workload: Workload, compare: Sequence[Compare], then: Sequence[Op]) -> Workload | None:
        result = await self._kv.txn(compare, then)
        if not result.succeeded:
            return None
        workload.etag = etag_at(result.revision)
        return workload


def _put(entry: Entry, workload: Workload) -> Put:
    return Put(entry.key, stored(workload))


def _shown(entry: Entry) -> Workload:
    workload = Workload.FromString(entry.value)
    workload.etag = etag_at(entry.mod_revision)
    return workload


def _prefix(parent: str) -> str:
    if parent == f"projects/{ANY}":
        return keys.WORKLOADS
    return f"{keys.WORKLOADS}{ProjectName.parse(parent, 'parent').project}/"
