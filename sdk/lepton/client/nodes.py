"""`client.nodes`: the machines of the fleet."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.listing import Listing, Page
from lepton.client.pools import pool_name
from lepton.client.scope import Scope
from lepton.client.watching import Change, Watch
from lepton.errors import DeadlineExceeded
from lepton.names import NodeName
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.node_pb2 import Node
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

ALL = "-"


class Nodes(Group):
    """Reads, lists and watches nodes; a pool of `-` means all pools."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = SchedulerServiceStub(calls.channel("scheduler"))

    async def get(self, node: str) -> Node:
        """A node by its whole name."""
        return await self._calls.unary(self._stub.GetNode, pb.GetNodeRequest(name=str(NodeName.parse(node))))

    def list(self, pool: str = ALL, *, page_size: int = 0) -> Listing[Node]:
        """The nodes of a pool."""
        parent = _parent(pool)

        async def page(token: str) -> Page[Node]:
            request = pb.ListNodesRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListNodes, request)
            return answer.nodes, answer.next_page_token

        return Listing(page)

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


def _parent(pool: str) -> str:
    return "pools/-" if pool in (ALL, "pools/-") else pool_name(pool)
