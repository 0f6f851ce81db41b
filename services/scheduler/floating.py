"""Floating resources as clients see them: created, read, changed and deleted; their use is derived from the ledger."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from chassis.etags import etag as etag_at
from chassis.etags import unchanged
from chassis.kv import KV, Delete, Entry, Put, absent
from chassis.paging import Pager
from chassis.requests import Claim, Requests
from chassis.watching import changes
from lepton.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument
from lepton.names import FloatingResourceName, not_found
from lepton.scheduler.v1 import queue_pb2
from lepton.scheduler.v1 import queue_service_pb2 as service
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.ledger import Ledger
from services.scheduler.lifecycle import ENDED
from services.scheduler.planner.floating import floating_use

FloatingResource = queue_pb2.FloatingResource
_ATTEMPTS: Final = 8


class FloatingResources:
    """What workloads use and what belongs to no node: licences, a privacy budget."""

    def __init__(self, kv: KV, ledger: Ledger, requests: Requests, pager: Pager) -> None:
        self._kv = kv
        self._ledger = ledger
        self._requests = requests
        self._pager = pager

    async def create(self, request: service.CreateFloatingResourceRequest) -> FloatingResource:
        """A new floating resource."""
        return await self._requests.once(request, FloatingResource, lambda claim: self._create(request, claim))

    async def _create(self, request: service.CreateFloatingResourceRequest, claim: Claim) -> FloatingResource | None:
        name = FloatingResourceName(request.floating_resource_id)
        resource = FloatingResource(name=str(name), capacity=request.floating_resource.capacity)
        key = keys.floating_resource(name)
        then = [Put(key, stored(resource)), *claim.record(resource)]
        result = await self._kv.txn([absent(key), *claim.guard], then)
        if not result.succeeded:
            if await self._kv.get(key) is not None:
                raise AlreadyExists("FLOATING_RESOURCE_ALREADY_EXISTS", floating_resource=str(name))
            return None
        resource.etag = etag_at(result.revision)
        return resource

    async def get(self, name: FloatingResourceName) -> FloatingResource:
        """A floating resource with what of it is in use."""
        return self._shown(await self._read(name), self._use())

    async def list(self, request: service.ListFloatingResourcesRequest) -> service.ListFloatingResourcesResponse:
        """A page of floating resources."""
        page = await self._pager.page(keys.FLOATING_RESOURCES, request)
        use = self._use()
        return service.ListFloatingResourcesResponse(
            floating_resources=[self._shown(entry, use) for entry in page.entries],
            next_page_token=page.next_page_token,
        )

    async def watch(
        self, request: service.WatchFloatingResourcesRequest
    ) -> AsyncGenerator[service.WatchFloatingResourcesResponse, None]:
        """The floating resources as they are, then every change of what there is of them."""
        response = service.WatchFloatingResourcesResponse
        async with aclosing(changes(self._kv, keys.FLOATING_RESOURCES, request.revision)) as batches:
            async for batch in batches:
                use = self._use() if batch.events else {}
                for event in batch.events:
                    if event.entry is not None:
                        shown = self._shown(event.entry, use)
                        yield response(event=response.CHANGED, floating_resource=shown, revision=event.revision)
                    else:
                        name = FloatingResourceName(event.key.removeprefix(keys.FLOATING_RESOURCES))
                        gone = FloatingResource(name=str(name))
                        yield response(event=response.DELETED, floating_resource=gone, revision=event.revision)
                if not batch.events:
                    yield response(event=response.BOOKMARK, revision=batch.revision)

    async def update(self, request: service.UpdateFloatingResourceRequest) -> FloatingResource:
        """Change how much there is. What is held beyond a smaller capacity is not taken away."""
        wanted = request.floating_resource
        name = FloatingResourceName.parse(wanted.name, "floating_resource.name")
        unknown = [path for path in request.update_mask.paths if path not in ("capacity", "*")]
        if unknown:
            raise InvalidArgument("INVALID_FIELD", fields={"update_mask": f"{unknown[0]} cannot be changed"})
        for _ in range(_ATTEMPTS):
            entry = await self._read(name)
            condition = unchanged(entry, wanted.etag, name)
            resource = FloatingResource.FromString(entry.value)
            if request.update_mask.paths or wanted.capacity:
                resource.capacity = wanted.capacity
            result = await self._kv.txn([condition], [Put(entry.key, stored(resource))])
            if result.succeeded:
                resource.etag = etag_at(result.revision)
                resource.allocated = self._use().get(resource.name, 0)
                return resource
        raise Aborted("WRITE_CONFLICT", name=str(name))

    async def delete(self, name: FloatingResourceName, etag: str) -> None:
        """Remove a floating resource that no workload asks for which has not ended."""
        entry = await self._read(name)
        condition = unchanged(entry, etag, name)
        users = [
            record.value.name
            for record in self._ledger.workloads.values()
            if record.value.state not in ENDED and any(each == str(name) for each, _ in record.value.floating)
        ]
        if users:
            raise FailedPrecondition(
                "FLOATING_RESOURCE_IN_USE", floating_resource=str(name), user=min(users), count=str(len(users))
            )
        result = await self._kv.txn([condition], [Delete(entry.key)])
        if not result.succeeded:
            raise Aborted("WRITE_CONFLICT", name=str(name))

    async def _read(self, name: FloatingResourceName) -> Entry:
        entry = await self._kv.get(keys.floating_resource(name))
        if entry is None:
            raise not_found(name)
        return entry

    def _use(self) -> dict[str, int]:
        return floating_use(self._ledger.snapshot(0.0))

    def _shown(self, entry: Entry, use: dict[str, int]) -> FloatingResource:
        resource = FloatingResource.FromString(entry.value)
        resource.etag = etag_at(entry.mod_revision)
        resource.allocated = use.get(resource.name, 0)
        return resource
