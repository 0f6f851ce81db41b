"""`client.pools`: partitions of the fleet."""

from collections.abc import AsyncGenerator, Sequence

from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.client.watching import Change, Watch
from lepton.names import PoolName
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.pool_pb2 import Pool
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub


class Pools(Group):
    """Creates, reads, lists, changes and deletes pools."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = SchedulerServiceStub(calls.channel("scheduler"))

    async def create(self, pool_id: str, pool: Pool | None = None, *, request_id: str = "") -> Pool:
        """A new pool. AlreadyExists."""
        request = pb.CreatePoolRequest(pool_id=pool_id, pool=pool or Pool(), request_id=request_id or new_request_id())
        return await self._calls.unary(self._stub.CreatePool, request)

    async def get(self, pool: str) -> Pool:
        """A pool by id or name."""
        return await self._calls.unary(self._stub.GetPool, pb.GetPoolRequest(name=pool_name(pool)))

    def list(self, *, page_size: int = 0) -> Listing[Pool]:
        """All pools."""

        async def page(token: str) -> Page[Pool]:
            request = pb.ListPoolsRequest(page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListPools, request)
            return answer.pools, answer.next_page_token

        return Listing(page)

    def watch_all(self, *, revision: int = 0) -> AsyncGenerator[Change[Pool], None]:
        """The pools as they are, then every change of what is set on them, for ever."""
        return Watch(
            self._calls,
            Pool,
            lambda position: self._stub.WatchPools(pb.WatchPoolsRequest(revision=position)),
            revision,
        ).changes()

    async def update(self, pool: Pool, fields: Sequence[str] = ()) -> Pool:
        """Change these fields of a pool, or those that are set: class, labels, display_name, membership."""
        request = pb.UpdatePoolRequest(pool=pool)
        request.update_mask.paths.extend(fields)
        return await self._calls.unary(self._stub.UpdatePool, request)

    async def delete(self, pool: str, *, etag: str = "") -> None:
        """Delete a pool without nodes."""
        await self._calls.unary(self._stub.DeletePool, pb.DeletePoolRequest(name=pool_name(pool), etag=etag))


def pool_name(pool: str) -> str:
    """The whole name of a pool, from that or from its id."""
    return str(PoolName.parse(pool) if "/" in pool else PoolName(pool))
