"""Nodes as clients see them: what agents declare, under what operators have set, with what is in use of them."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from chassis.etags import etag as etag_at
from chassis.kv import KV, Compare, Delete, Entry, Get, Op, Put, mod
from chassis.paging import Pager
from chassis.watching import changes
from lepton.errors import Aborted
from lepton.internal.v1 import ledger_pb2
from lepton.names import NodeName, PoolName, not_found
from lepton.scheduler.v1 import node_pb2, resources_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as service
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.ledger import Ledger
from services.scheduler.node_settings import changed, merged
from services.scheduler.planner.holdings import holdings

ANY: Final = "-"
_BOTH: Final = f"{keys.ROOT}node"  # begins the keys of documents and of settings: one watch sees both in order
_ATTEMPTS: Final = 8

NodeSettings = ledger_pb2.NodeSettings


class Nodes:
    """Reads nodes, which the sessions write, and keeps their settings, which outlive the sessions."""

    def __init__(self, kv: KV, ledger: Ledger, pager: Pager) -> None:
        self._kv = kv
        self._ledger = ledger
        self._pager = pager

    async def get(self, name: NodeName) -> node_pb2.Node:
        """A node with what of it is in use."""
        entry, settings = await self._read(name)
        if entry is None:
            raise not_found(name)
        return self._shown(entry, settings)

    async def list(self, request: service.ListNodesRequest) -> service.ListNodesResponse:
        """A page of nodes. Their settings are those of now."""
        page = await self._pager.page(_prefix(request.parent), request)
        settings = await self._settings(page.entries)
        nodes = [self._shown(entry, settings.get(_id(entry.key))) for entry in page.entries]
        return service.ListNodesResponse(nodes=nodes, next_page_token=page.next_page_token)

    async def watch(self, request: service.WatchNodesRequest) -> AsyncGenerator[service.WatchNodesResponse, None]:
        """The nodes as they are, then every change of them or of their settings.

        A node is sent as it is when it is sent; what is in use of it too.
        """
        response = service.WatchNodesResponse
        wanted = _prefix(request.parent).removeprefix(keys.NODES)
        async with aclosing(changes(self._kv, _BOTH, request.revision)) as batches:
            async for batch in batches:
                if batch.events:
                    await self._ledger.reached(max(event.revision for event in batch.events))
                for event in batch.events:
                    node_id = _id(event.key)
                    if not node_id.startswith(wanted):
                        continue
                    name = str(NodeName(*node_id.split("/")))
                    record = self._ledger.nodes.get(name)
                    if event.entry is None and event.key.startswith(keys.NODES):
                        yield response(event=response.DELETED, node=node_pb2.Node(name=name), revision=event.revision)
                    elif record is not None:
                        settings = self._ledger.node_settings.get(name)
                        node = self._shown(record.entry, settings)
                        yield response(event=response.CHANGED, node=node, revision=event.revision)
                if not batch.events:
                    yield response(event=response.BOOKMARK, revision=batch.revision)

    async def update(self, request: service.UpdateNodeRequest) -> node_pb2.Node:
        """Change what is set on a node. One whose agent is away can be changed as long as something is set on it."""
        name = NodeName.parse(request.node.name, "node.name")
        for _ in range(_ATTEMPTS):
            entry, settings = await self._read(name)
            if entry is None and settings is None:
                raise not_found(name)
            if request.node.etag and request.node.etag != _etag(entry, settings):
                raise Aborted("ETAG_MISMATCH", name=str(name))
            declared = node_pb2.Node.FromString(entry.value) if entry else node_pb2.Node(name=str(name))
            before = NodeSettings.FromString(settings.value) if settings else NodeSettings()
            after = changed(before, declared, request.node, request.update_mask.paths)
            compare, then = self._write(name, entry, settings, after, is_strict=bool(request.node.etag))
            result = await self._kv.txn(compare, then)
            if result.succeeded:
                node = merged(declared, after)
                node.allocated.CopyFrom(self.allocated(str(name)))
                node.etag = etag_at(result.revision if then else _revision(entry, settings))
                return node
        raise Aborted("WRITE_CONFLICT", name=str(name))

    def allocated(self, node: str) -> resources_pb2.Resources:
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
                total.network_mbps += demand.network_mbps
        return total

    def _write(
        self, name: NodeName, entry: Entry | None, settings: Entry | None, after: NodeSettings, *, is_strict: bool
    ) -> tuple[Sequence[Compare], Sequence[Op]]:
        key = keys.node_settings(name)
        compare = [mod(key, settings.mod_revision if settings else 0)]
        if is_strict:  # what was read is still what there is, the agent's part too
            compare.append(mod(keys.node(name), entry.mod_revision if entry else 0))
        if after == NodeSettings():
            return compare, [Delete(key)] if settings else []
        return compare, [Put(key, stored(after))]

    async def _read(self, name: NodeName) -> tuple[Entry | None, Entry | None]:
        """The node's document and its settings, as of one moment."""
        result = await self._kv.txn([], [Get(keys.node(name)), Get(keys.node_settings(name))])
        return result.responses[0].entry, result.responses[1].entry

    async def _settings(self, nodes: Sequence[Entry]) -> dict[str, Entry]:
        """What is set on these nodes, which are in the order of their keys, by pool and id."""
        found: dict[str, Entry] = {}
        if not nodes:
            return found
        first, last = (keys.NODE_SETTINGS + _id(nodes[at].key) for at in (0, -1))
        after = first[:-1]  # sorts before the first, and little lies between
        while True:
            page = await self._kv.list(keys.NODE_SETTINGS, limit=len(nodes) + 1, start_after=after)
            found.update({_id(entry.key): entry for entry in page.entries if entry.key <= last})
            if not page.more or page.entries[-1].key >= last:
                return found
            after = page.entries[-1].key

    def _shown(self, entry: Entry, settings: Entry | None) -> node_pb2.Node:
        declared = node_pb2.Node.FromString(entry.value)
        node = merged(declared, NodeSettings.FromString(settings.value) if settings else None)
        node.etag = _etag(entry, settings)
        node.allocated.CopyFrom(self.allocated(node.name))
        return node


def _prefix(parent: str) -> str:
    return keys.NODES if parent == f"pools/{ANY}" else keys.nodes_of(PoolName.parse(parent, "parent"))


def _id(key: str) -> str:
    """`{pool}/{node}` of a document's key or of that of its settings."""
    return key.removeprefix(keys.NODES).removeprefix(keys.NODE_SETTINGS)


def _revision(entry: Entry | None, settings: Entry | None) -> int:
    return max(each.mod_revision for each in (entry, settings) if each is not None)


def _etag(entry: Entry | None, settings: Entry | None) -> str:
    return etag_at(_revision(entry, settings))
