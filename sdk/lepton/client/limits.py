"""`client.limits`: how much principals may use."""

from collections.abc import Collection

from lepton.auth.v1 import limit_service_pb2 as pb
from lepton.auth.v1.limit_service_pb2_grpc import LimitServiceStub
from lepton.auth.v1.principal_limit_pb2 import PrincipalLimit
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.names import PrincipalLimitName


class Limits(Group):
    """Sets limits of principals, in force at once; of several that name one, the least counts."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = LimitServiceStub(calls.channel("auth"))

    async def create(
        self,
        limit_id: str,
        members: Collection[str],
        *,
        requests_per_s: float | None = None,
        max_unfinished: int | None = None,
        max_device_milli: int | None = None,
        request_id: str = "",
    ) -> PrincipalLimit:
        """A limit for each of some principals; `*` is everybody whom no other limit names. AlreadyExists."""
        limit = _limit(members, requests_per_s, max_unfinished, max_device_milli)
        request = pb.CreatePrincipalLimitRequest(
            principal_limit_id=limit_id, principal_limit=limit, request_id=request_id or new_request_id()
        )
        return await self._calls.unary(self._stub.CreatePrincipalLimit, request)

    async def get(self, limit: str) -> PrincipalLimit:
        """A limit by id or name."""
        return await self._calls.unary(self._stub.GetPrincipalLimit, pb.GetPrincipalLimitRequest(name=_name(limit)))

    def list(self, *, page_size: int = 0) -> Listing[PrincipalLimit]:
        """All limits."""

        async def page(token: str) -> Page[PrincipalLimit]:
            request = pb.ListPrincipalLimitsRequest(page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListPrincipalLimits, request)
            return answer.principal_limits, answer.next_page_token

        return Listing(page)

    async def update(
        self,
        limit: str,
        members: Collection[str],
        *,
        requests_per_s: float | None = None,
        max_unfinished: int | None = None,
        max_device_milli: int | None = None,
        etag: str = "",
    ) -> PrincipalLimit:
        """Other members and amounts; what is not given is not limited."""
        changed = _limit(members, requests_per_s, max_unfinished, max_device_milli)
        changed.name = _name(limit)
        request = pb.UpdatePrincipalLimitRequest(principal_limit=changed, etag=etag)
        return await self._calls.unary(self._stub.UpdatePrincipalLimit, request)

    async def delete(self, limit: str) -> None:
        """Take a limit away."""
        await self._calls.unary(self._stub.DeletePrincipalLimit, pb.DeletePrincipalLimitRequest(name=_name(limit)))


def _limit(
    members: Collection[str], requests_per_s: float | None, max_unfinished: int | None, max_device_milli: int | None
) -> PrincipalLimit:
    return PrincipalLimit(
        members=members,
        requests_per_s=requests_per_s,
        max_unfinished=max_unfinished,
        max_device_milli=max_device_milli,
    )


def _name(limit: str) -> str:
    return str(PrincipalLimitName.parse(limit) if "/" in limit else PrincipalLimitName(limit))
