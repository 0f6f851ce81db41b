"""Pools and nodes as clients see them: documents from etcd, with what is used of them derived from the assignments."""

import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from chassis.clock import Clock
from chassis.etags import etag as etag_at
from chassis.etags import unchanged
from chassis.kv import KV, Delete, Entry, Put, absent
from chassis.paging import Pager
from chassis.requests import Claim, Requests
from chassis.watching import changes
from lepton.errors import Aborted, AlreadyExists, FailedPrecondition
from lepton.names import NodeName, PoolName, not_found
from lepton.scheduler.v1 import node_pb2, pool_pb2, resources_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as service
from services.scheduler import convert, keys
from services.scheduler.ledger import Ledger
from services.scheduler.planner.capacity import Capacity, FreeNode

ANY = "-"


class Pools:
    """Creates, reads and deletes pools; reads nodes, which the sessions write."""

    def __init__(self, kv: KV, ledger: Ledger, requests: Requests, pager: Pager, clock: Clock) -> None:
        self._kv = kv
        self._ledger = ledger
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
        now = convert.timestamp(self._clock.now())
        pool.name, pool.uid = str(name), str(uuid.uuid4())
        setattr(pool, "class", getattr(pool, "class") or pool_pb2.Pool.GENERAL)  # `class` is a word of Python
        pool.create_time.CopyFrom(now)
        pool.update_time.CopyFrom(now)
        key = keys.pool(name)
        result = await self._kv.txn([absent(key), *claim.guard], [Put(key, convert.stored(pool)), *claim.record(pool)])
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
        return self._pool(entry, self._free())

    async def list(self, request: service.ListPoolsRequest) -> service.ListPoolsResponse:
        """A page of pools."""
        page = await self._pager.page(keys.POOLS, request)
        free = self._free()
        pools = [self._pool(entry, free) for entry in page.entries]
        return service.ListPoolsResponse(pools=pools, next_page_token=page.next_page_token)

    async def delete(self, name: PoolName, etag: str) -> None:
        """Remove a pool that has no nodes."""
        entry = await self._kv.get(keys.pool(name))
        if entry is None:
            raise not_found(name)
        condition = unchanged(entry, etag, name)
        nodes = await self._kv.list(keys.nodes_of(name), limit=1)
        if nodes.entries:
            raise FailedPrecondition("POOL_NOT_EMPTY", pool=str(name))
        result = await self._kv.txn([condition], [Delete(entry.key)])
        if not result.succeeded:
            raise Aborted("WRITE_CONFLICT", name=str(name))

    async def get_node(self, name: NodeName) -> node_pb2.Node:
        """A node with what of it is in use."""
        entry = await self._kv.get(keys.node(name))
        if entry is None:
            raise not_found(name)
        return _node(entry, self._free())

    async def list_nodes(self, request: service.ListNodesRequest) -> service.ListNodesResponse:
        """A page of nodes."""
        page = await self._pager.page(_prefix(request.parent), request)
        free = self._free()
        nodes = [_node(entry, free) for entry in page.entries]
        return service.ListNodesResponse(nodes=nodes, next_page_token=page.next_page_token)

    async def watch_nodes(self, request: service.WatchNodesRequest) -> AsyncGenerator[service.WatchNodesResponse, None]:
        """The nodes as they are, then every change. What is in use of a node is as of the sending."""
        response = service.WatchNodesResponse
        async with aclosing(changes(self._kv, _prefix(request.parent), request.revision)) as batches:
            async for batch in batches:
                free = self._free()
                for event in batch.events:
                    if event.entry is not None:
                        node = _node(event.entry, free)
                        yield response(event=response.CHANGED, node=node, revision=event.revision)
                    else:
                        pool, _, node_id = event.key.removeprefix(keys.NODES).partition("/")
                        gone = node_pb2.Node(name=str(NodeName(pool, node_id)))
                        yield response(event=response.DELETED, node=gone, revision=event.revision)
                if not batch.events:
                    yield response(event=response.BOOKMARK, revision=batch.revision)

    def _free(self) -> Mapping[str, FreeNode]:
        return Capacity.of(self._ledger.snapshot(0.0)).nodes

    def _pool(self, entry: Entry, free: Mapping[str, FreeNode]) -> pool_pb2.Pool:
        pool = pool_pb2.Pool.FromString(entry.value)
        pool.etag = etag_at(entry.mod_revision)
        for record in self._ledger.nodes.values():
            if record.value.pool == pool.name:
                pool.node_count += 1
                _add(pool.capacity, record.proto.capacity)
                _add(pool.allocated, _allocated(record.proto, free.get(record.proto.name)))
        return pool


def _prefix(parent: str) -> str:
    return keys.NODES if parent == f"pools/{ANY}" else keys.nodes_of(PoolName.parse(parent, "parent"))


def _node(entry: Entry, free: Mapping[str, FreeNode]) -> node_pb2.Node:
    node = node_pb2.Node.FromString(entry.value)
    node.etag = etag_at(entry.mod_revision)
    node.allocated.CopyFrom(_allocated(node, free.get(node.name)))
    return node


def _allocated(node: node_pb2.Node, free: FreeNode | None) -> resources_pb2.Resources:
    if free is None:
        return resources_pb2.Resources()
    return resources_pb2.Resources(
        cpu_milli=node.capacity.cpu_milli - free.cpu_milli,
        memory_bytes=node.capacity.memory_bytes - free.memory_bytes,
        storage_bytes=node.capacity.storage_bytes - free.storage_bytes,
        device_milli=node.capacity.device_milli - sum(free.devices.values()),
    )


def _add(total: resources_pb2.Resources, more: resources_pb2.Resources) -> None:
    total.cpu_milli += more.cpu_milli
    total.memory_bytes += more.memory_bytes
    total.storage_bytes += more.storage_bytes
    total.device_milli += more.device_milli
