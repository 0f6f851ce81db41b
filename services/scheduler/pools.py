"""Pools and nodes as clients see them: documents from etcd, with what is used of them derived from the assignments."""

import uuid
from collections.abc import AsyncGenerator
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
from services.scheduler.planner.capacity import holdings

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
        return self._pool(entry)

    async def list(self, request: service.ListPoolsRequest) -> service.ListPoolsResponse:
        """A page of pools."""
        page = await self._pager.page(keys.POOLS, request)
        pools = [self._pool(entry) for entry in page.entries]
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
        return self._node(entry)

    async def list_nodes(self, request: service.ListNodesRequest) -> service.ListNodesResponse:
        """A page of nodes."""
        page = await self._pager.page(_prefix(request.parent), request)
        nodes = [self._node(entry) for entry in page.entries]
        return service.ListNodesResponse(nodes=nodes, next_page_token=page.next_page_token)

    async def watch_nodes(self, request: service.WatchNodesRequest) -> AsyncGenerator[service.WatchNodesResponse, None]:
        """The nodes as they are, then every change. What is in use of a node is as of the sending."""
        response = service.WatchNodesResponse
        async with aclosing(changes(self._kv, _prefix(request.parent), request.revision)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.entry is not None:
                        node = self._node(event.entry)
                        yield response(event=response.CHANGED, node=node, revision=event.revision)
                    else:
                        pool, _, node_id = event.key.removeprefix(keys.NODES).partition("/")
                        gone = node_pb2.Node(name=str(NodeName(pool, node_id)))
                        yield response(event=response.DELETED, node=gone, revision=event.revision)
                if not batch.events:
                    yield response(event=response.BOOKMARK, revision=batch.revision)

    def _pool(self, entry: Entry) -> pool_pb2.Pool:
        pool = pool_pb2.Pool.FromString(entry.value)
        pool.etag = etag_at(entry.mod_revision)
        for record in self._ledger.nodes.values():
            if record.value.pool == pool.name:
                pool.node_count += 1
                _add(pool.capacity, record.proto.capacity)
                _add(pool.allocated, self._allocated(record.proto.name))
        return pool

    def _node(self, entry: Entry) -> node_pb2.Node:
        node = node_pb2.Node.FromString(entry.value)
        node.etag = etag_at(entry.mod_revision)
        node.allocated.CopyFrom(self._allocated(node.name))
        return node

    def _allocated(self, node: str) -> resources_pb2.Resources:
        """What of a node is assigned, derived from the assignments that have slices on it."""
        total = resources_pb2.Resources()
        here = self._ledger.nodes.get(node)
        if here is None:
            return total
        for workload in dict.fromkeys(record.proto.workload for record in self._ledger.on_node(node)):
            generations = [record.value for record in self._ledger.assignments[workload].values()]
            for assignment, held in holdings(generations, {node: here.value}):
                demand = assignment.groups[held.group].demand
                total.cpu_milli += demand.cpu_milli
                total.memory_bytes += demand.memory_bytes
                total.storage_bytes += demand.storage_bytes
                total.device_milli += demand.device_milli
        return total


def _prefix(parent: str) -> str:
    return keys.NODES if parent == f"pools/{ANY}" else keys.nodes_of(PoolName.parse(parent, "parent"))


def _add(total: resources_pb2.Resources, more: resources_pb2.Resources) -> None:
    total.cpu_milli += more.cpu_milli
    total.memory_bytes += more.memory_bytes
    total.storage_bytes += more.storage_bytes
    total.device_milli += more.device_milli
