"""Limits of principals: how much each may use, kept with the policy that every service follows."""

from collections.abc import Iterable
from typing import Final, Literal

from chassis.principal_limits import EVERYBODY
from lepton.auth.v1 import limit_service_pb2 as pb
from lepton.auth.v1.principal_limit_pb2 import PrincipalLimit
from lepton.errors import InvalidArgument
from lepton.names import PrincipalLimitName
from services.auth import layout
from services.auth.bindings import check_principal
from services.auth.policy import Policy
from services.auth.store import Store

Amount = Literal["requests_per_s", "max_unfinished", "max_device_milli"]
_AMOUNTS: Final[tuple[Amount, ...]] = ("requests_per_s", "max_unfinished", "max_device_milli")


class Limits:
    """Creates, reads, changes and deletes limits."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    async def create(self, request: pb.CreatePrincipalLimitRequest) -> PrincipalLimit:
        """A new limit, in force at once."""
        name = PrincipalLimitName(request.principal_limit_id)
        limit = _taken(request.principal_limit, PrincipalLimit())

        async def check() -> None:
            await self._check_members(limit.members)

        created = await self._store.create(request, limit, name, layout.principal_limit(name), check=check)
        await self._policy.reached(int(created.etag.strip('"')))
        return created

    async def get(self, name: PrincipalLimitName) -> PrincipalLimit:
        """A limit."""
        return await self._store.get(name, layout.principal_limit(name), PrincipalLimit)

    async def page(self, request: pb.ListPrincipalLimitsRequest) -> tuple[list[PrincipalLimit], str]:
        """All limits."""
        return await self._store.page(layout.PRINCIPAL_LIMITS, request, PrincipalLimit)

    async def update(self, request: pb.UpdatePrincipalLimitRequest) -> PrincipalLimit:
        """Other members and amounts, in force at once; what exists already stays."""
        name = PrincipalLimitName.parse(request.principal_limit.name, "principal_limit.name")
        await self._check_members(request.principal_limit.members)
        limit, revision = await self._store.update(
            name,
            layout.principal_limit(name),
            PrincipalLimit,
            request.etag,
            lambda limit: _taken(request.principal_limit, limit),
        )
        await self._policy.reached(revision)
        return limit

    async def delete(self, name: PrincipalLimitName) -> int:
        """Take a limit away; the answer is the policy revision without it."""
        revision = await self._store.delete(name, lambda: self._store.entry(name, layout.principal_limit(name)))
        await self._policy.reached(revision)
        return revision

    async def _check_members(self, members: Iterable[str]) -> None:
        for member in members:
            if member != EVERYBODY:
                await check_principal(self._store, member, "principal_limit.members")


def _taken(given: PrincipalLimit, into: PrincipalLimit) -> PrincipalLimit:
    """A limit with the members and amounts of another. Raises InvalidArgument when that limits nothing."""
    if not any(given.HasField(field) for field in _AMOUNTS):
        bad = f"limits nothing: set one of {', '.join(_AMOUNTS)}"
        raise InvalidArgument("INVALID_FIELD", fields={"principal_limit": bad})
    into.members[:] = sorted(given.members)
    for field in _AMOUNTS:
        into.ClearField(field)
        if given.HasField(field):
            setattr(into, field, getattr(given, field))
    return into
