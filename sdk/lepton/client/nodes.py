"""`client.nodes`: the machines of the fleet."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.listing import Listing, Page
from lepton.client.pools import pool_name
from lepton.client.scope import Scope
from lepton.client.watching import Change, Watch
from lepton.errors import Aborted, DeadlineExceeded
from lepton.names import NodeName
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.node_pb2 import Node
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

ALL = "-"
_ATTEMPTS: Final = 8


class Nodes(Group):
    """Reads, lists, watches and changes nodes; a pool of `-` means all pools."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = SchedulerServiceStub(calls.channel("scheduler"))

    async def get(self, node: str) -> Node:
        """A node by its whole name or `{pool}/{node}`."""
        return await self._calls.unary(self._stub.GetNode, pb.GetNodeRequest(name=node_name(node)))

    def list(self, pool: str = ALL, *, page_size: int = 0) -> Listing[Node]:
        """The nodes of a pool."""
        parent = _parent(pool)

        async def page(token: str) -> Page[Node]:
            request = pb.ListNodesRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListNodes, request)
            return answer.nodes, answer.next_page_token

        return Listing(page)

    async def update(self, node: Node, fields: Sequence[str] = ()) -> Node:
        """Change what is set on a node: these of state, labels and taints, or those that are set in `node`."""
        request = pb.UpdateNodeRequest(node=node)
        request.update_mask.paths.extend(fields)
        return await self._calls.unary(self._stub.UpdateNode, request)

    async def change(self, node: str, change: Callable[[Node], None], fields: Sequence[str]) -> Node:
        """Change a node as it is now, again when others have changed it meanwhile. Aborted."""
        for attempt in range(_ATTEMPTS):
            current = await self.get(node)
            change(current)
            try:
                return await self.update(current, fields)
            except Aborted:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError

    async def cordon(self, node: str) -> Node:
        """Place no new work on a node; what runs there goes on."""
        return await self.update(Node(name=node_name(node), state=Node.CORDONED), ["state"])

    async def uncordon(self, node: str) -> Node:
        """Place work on a node again."""
        return await self.update(Node(name=node_name(node), state=Node.READY), ["state"])

    def watch_all(self, *, pool: str = ALL, revision: int = 0) -> AsyncGenerator[Change[Node], None]:
        """The nodes as they are, then every change, for ever."""
        parent = _parent(pool)
        return Watch(
            self._calls,
            Node,
            lambda position: self._stub.WatchNodes(pb.WatchNodesRequest(parent=parent, revision=position)),
            revision,
        ).changes()

    async def wait(self, count: int, *, pool: str = ALL, timeout_s: float | None = None) -> dict[str, Node]:
        """The ready nodes, by name, as soon as there are `count` of them. DeadlineExceeded."""
        ready: dict[str, Node] = {}
        try:
            async with asyncio.timeout(timeout_s), aclosing(self.watch_all(pool=pool)) as changes:
                async for change in changes:
                    node = change.resource
                    ready.pop(node.name, None)
                    if not change.is_deleted and node.state == Node.READY:
                        ready[node.name] = node
                    if len(ready) >= count:
                        return ready
        except TimeoutError:
            raise DeadlineExceeded("WAIT_TIMED_OUT", name=_parent(pool), state=f"{len(ready)} nodes ready") from None
        raise AssertionError("a watch has no end")


def node_name(node: str) -> str:
    """The whole name of a node, from that or from `{pool}/{node}`."""
    pool, slash, node_id = node.partition("/")
    return str(NodeName(pool, node_id) if slash and "/" not in node_id else NodeName.parse(node))


def _parent(pool: str) -> str:
    return "pools/-" if pool in (ALL, "pools/-") else pool_name(pool)
