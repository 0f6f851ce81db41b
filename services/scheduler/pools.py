"""Pools as clients see them: documents from etcd, with what their nodes have and what of it is in use."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from chassis.clock import Clock
from chassis.etags import etag as etag_at
from chassis.etags import unchanged
from chassis.kv import KV, Delete, DeletePrefix, Entry, Put, absent
from chassis.paging import Pager
from chassis.requests import Claim, Requests
from chassis.watching import changes
from lepton.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument
from lepton.names import PoolName, not_found
from lepton.scheduler.v1 import pool_pb2, resources_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as service
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.convert.moments import timestamp
from services.scheduler.ledger import Ledger
from services.scheduler.nodes import Nodes

CHANGEABLE: Final = ("class", "labels", "display_name", "membership")
_ATTEMPTS: Final = 8


class Pools:
    """Creates, reads, changes and deletes pools."""

    def __init__(self, kv: KV, ledger: Ledger, nodes: Nodes, requests: Requests, pager: Pager, clock: Clock) -> None:
        self._kv = kv
        self._ledger = ledger
        self._nodes = nodes
        self._requests = requests
        self._pager = pager
        self._clock = clock

    async def create(self, request: service.CreatePoolRequest) -> pool_pb2.Pool:
        """A new pool, empty."""
        return await self._requests.once(request, pool_pb2.Pool, lambda claim: self._create(request, claim))

    async def _create(self, request: service.CreatePoolRequest, claim: Claim) -> pool_pb2.Pool | None:
        name = PoolName(request.pool_id)
        pool = pool_pb2.Pool()
        pool.CopyFrom(request.pool)
        now = timestamp(self._clock.now())
        pool.name, pool.uid = str(name), str(uuid.uuid4())
        setattr(pool, "class", getattr(pool, "class") or pool_pb2.Pool.GENERAL)  # `class` is a word of Python
        pool.create_time.CopyFrom(now)
        pool.update_time.CopyFrom(now)
        key = keys.pool(name)
        result = await self._kv.txn([absent(key), *claim.guard], [Put(key, stored(pool)), *claim.record(pool)])
        if not result.succeeded:
            if await self._kv.get(key) is not None:
                raise AlreadyExists("POOL_ALREADY_EXISTS", pool=str(name))
            return None
        pool.etag = etag_at(result.revision)
        return pool

    async def get(self, name: PoolName) -> pool_pb2.Pool:
        """A pool with its present counts."""
        entry = await self._kv.get(keys.pool(name))
        if entry is None:
            raise not_found(name)
        return self._pool(entry)

    async def list(self, request: service.ListPoolsRequest) -> service.ListPoolsResponse:
        """A page of pools."""
        page = await self._pager.page(keys.POOLS, request)
        pools = [self._pool(entry) for entry in page.entries]
        return service.ListPoolsResponse(pools=pools, next_page_token=page.next_page_token)

    async def watch(self, request: service.WatchPoolsRequest) -> AsyncGenerator[service.WatchPoolsResponse, None]:
        """The pools as they are, then every change of what is set on them."""
        response = service.WatchPoolsResponse
        async with aclosing(changes(self._kv, keys.POOLS, request.revision)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.entry is not None:
                        yield response(event=response.CHANGED, pool=self._pool(event.entry), revision=event.revision)
                    else:
                        gone = pool_pb2.Pool(name=str(PoolName(event.key.removeprefix(keys.POOLS))))
                        yield response(event=response.DELETED, pool=gone, revision=event.revision)
                if not batch.events:
                    yield response(event=response.BOOKMARK, revision=batch.revision)

    async def update(self, request: service.UpdatePoolRequest) -> pool_pb2.Pool:
        """Change what the mask names. The nodes that are in the pool stay in it, whatever its rule says now."""
        name = PoolName.parse(request.pool.name, "pool.name")
        for _ in range(_ATTEMPTS):
            entry = await self._kv.get(keys.pool(name))
            if entry is None:
                raise not_found(name)
            condition = unchanged(entry, request.pool.etag, name)
            after = changed(pool_pb2.Pool.FromString(entry.value), request.pool, request.update_mask.paths)
            after.update_time.CopyFrom(timestamp(self._clock.now()))
            result = await self._kv.txn([condition], [Put(entry.key, stored(after))])
            if result.succeeded:
                after.etag = etag_at(result.revision)
                return self._counted(after)
        raise Aborted("WRITE_CONFLICT", name=str(name))

    async def delete(self, name: PoolName, etag: str) -> None:
        """Remove a pool that has no nodes."""
        entry = await self._kv.get(keys.pool(name))
        if entry is None:
            raise not_found(name)
        condition = unchanged(entry, etag, name)
        nodes = await self._kv.list(keys.nodes_of(name), limit=1)
        if nodes.entries:
            raise FailedPrecondition("POOL_NOT_EMPTY", pool=str(name))
        result = await self._kv.txn([condition], [Delete(entry.key), DeletePrefix(keys.node_settings_of(name))])
        if not result.succeeded:
            raise Aborted("WRITE_CONFLICT", name=str(name))

    def _pool(self, entry: Entry) -> pool_pb2.Pool:
        pool = pool_pb2.Pool.FromString(entry.value)
        pool.etag = etag_at(entry.mod_revision)
        return self._counted(pool)

    def _counted(self, pool: pool_pb2.Pool) -> pool_pb2.Pool:
        for record in self._ledger.nodes.values():
            if record.value.pool == pool.name:
                pool.node_count += 1
                _add(pool.capacity, record.proto.capacity)
                _add(pool.allocated, self._nodes.allocated(record.proto.name))
        return pool


def changed(pool: pool_pb2.Pool, wanted: pool_pb2.Pool, mask: Sequence[str]) -> pool_pb2.Pool:
    """The pool with the fields of the mask changed. Raises InvalidArgument (INVALID_FIELD)."""
    paths = list(CHANGEABLE) if list(mask) == ["*"] else list(dict.fromkeys(mask))
    unknown = [path for path in paths if path not in CHANGEABLE]
    if unknown:
        raise InvalidArgument("INVALID_FIELD", fields={"update_mask": f"{unknown[0]} cannot be changed"})
    if not paths:
        paths = [field.name for field, _ in wanted.ListFields() if field.name in CHANGEABLE]
    after = pool_pb2.Pool()
    after.CopyFrom(pool)
    for path in paths:
        after.ClearField(path)  # type: ignore[arg-type]
    chosen = pool_pb2.Pool()
    chosen.CopyFrom(wanted)
    for field, _ in wanted.ListFields():
        if field.name not in paths:
            chosen.ClearField(field.name)  # type: ignore[arg-type]
    after.MergeFrom(chosen)
    setattr(after, "class", getattr(after, "class") or pool_pb2.Pool.GENERAL)
    return after


def _add(total: resources_pb2.Resources, more: resources_pb2.Resources) -> None:
    total.cpu_milli += more.cpu_milli
    total.memory_bytes += more.memory_bytes
    total.storage_bytes += more.storage_bytes
    total.device_milli += more.device_milli
    total.network_mbps += more.network_mbps
