"""Resources in the store: read, listed and created the same way, whichever kind they are."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import Message

from chassis.clock import Clock
from chassis.etags import etag, unchanged
from chassis.kv import KV, Compare, Delete, Entry, Op, Put, absent
from chassis.paging import ListRequest, Pager
from chassis.requests import Claim, Requests
from lepton.errors import Aborted, AlreadyExists
from lepton.names import ResourceName, not_found
from services.auth.audit import AuditTrail, Deed

Resource = TypeVar("Resource", bound=Message)
T = TypeVar("T")
_ATTEMPTS: Final = 8


class Check(Protocol):
    """Raises when what a write depends on is not so."""

    async def __call__(self) -> None: ...


class Store:
    """The resources of auth; every write is one transaction with its audit record."""

    def __init__(self, kv: KV, audit: AuditTrail, requests: Requests, pager: Pager, clock: Clock) -> None:
        self.kv = kv
        self.audit = audit
        self.clock = clock
        self._requests = requests
        self._pager = pager

    async def get(self, name: ResourceName, key: str, kind: type[Resource]) -> Resource:
        """The resource; NotFound when there is none."""
        return resource_of(await self.entry(name, key), kind)

    async def entry(self, name: ResourceName, key: str) -> Entry:
        """The resource as it is stored; NotFound when there is none."""
        entry = await self.kv.get(key)
        if entry is None:
            raise not_found(name)
        return entry

    async def page(
        self,
        prefix: str,
        request: ListRequest,
        kind: type[Resource],
        *,
        keep: Callable[[Entry], bool] | None = None,
    ) -> tuple[list[Resource], str]:
        """The page of resources that the request asks for, and the token of the next one."""
        listing = await self._pager.page(prefix, request, keep=keep)
        return [resource_of(entry, kind) for entry in listing.entries], listing.next_page_token

    async def create(
        self,
        request: Message,
        resource: Resource,
        name: ResourceName,
        key: str,
        *,
        needs: Sequence[Compare] = (),
        also: Sequence[Op] = (),
        check: Check | None = None,
    ) -> Resource:
        """Store a new resource; AlreadyExists when there is one. `check` explains why `needs` may not hold."""
        stamp(resource, name, self.clock)

        async def write(claim: Claim) -> Resource | None:
            if check is not None:
                await check()
            if await self.kv.get(key) is not None:
                raise already_exists(name)
            done = await self.audit.commit(
                Deed(resource=str(name)),
                [absent(key), *needs, *claim.guard],
                [Put(key, resource.SerializeToString()), *also, *claim.record(resource, str(name))],
            )
            return with_etag(resource, done.revision) if done.succeeded else None

        return await self._requests.once(request, type(resource), write)

    async def update(
        self,
        name: ResourceName,
        key: str,
        kind: type[Resource],
        given_etag: str,
        change: Callable[[Resource], Resource],
    ) -> tuple[Resource, int]:
        """Store what `change` makes of a resource, and the time; the answer is that and the revision of the write."""

        async def write() -> tuple[Resource, int] | None:
            entry = await self.entry(name, key)
            made: Any = change(resource_of(entry, kind))
            made.update_time.FromDatetime(self.clock.now())
            made.ClearField("etag")
            done = await self.audit.commit(
                Deed(resource=str(name)),
                [unchanged(entry, given_etag, name)],
                [Put(entry.key, made.SerializeToString())],
            )
            return (with_etag(made, done.revision), done.revision) if done.succeeded else None

        return await self.retry(write)

    async def delete(
        self, name: ResourceName, read: Callable[[], Awaitable[Entry]], *, given_etag: str = "", also: Sequence[Op] = ()
    ) -> int:
        """Delete a resource as `read` finds it, and what goes with it; the answer is the revision without it."""

        async def write() -> int | None:
            entry = await read()
            done = await self.audit.commit(
                Deed(resource=str(name)), [unchanged(entry, given_etag, name)], [Delete(entry.key), *also]
            )
            return done.revision if done.succeeded else None

        return await self.retry(write)

    async def once(
        self, request: Message, kind: type[Resource], write: Callable[[Claim], Awaitable[Resource | None]]
    ) -> Resource:
        """What a request that may be repeated answers; see Requests.once."""
        return await self._requests.once(request, kind, write)

    async def retry(self, write: Callable[[], Awaitable[T | None]]) -> T:
        """Call `write` until it returns something: None means that the state moved between its read and its write."""
        for _ in range(_ATTEMPTS):
            written = await write()
            if written is not None:
                return written
        raise Aborted("WRITE_CONFLICT")


def resource_of(entry: Entry, kind: type[Resource]) -> Resource:
    """The resource that was stored, with its etag."""
    return with_etag(kind.FromString(entry.value), entry.mod_revision)


def with_etag(resource: Resource, revision: int) -> Resource:
    """The resource with the etag of a revision, for the kinds that have one."""
    if "etag" in resource.DESCRIPTOR.fields_by_name:
        resource.etag = etag(revision)  # type: ignore[attr-defined]
    return resource


def stamp(resource: Any, name: ResourceName, clock: Clock) -> None:
    """What the server says about a new resource: its name, its uid and the time."""
    resource.name = str(name)
    resource.uid = resource.uid or str(uuid.uuid4())
    now = clock.now()
    resource.create_time.FromDatetime(now)
    if "update_time" in resource.DESCRIPTOR.fields_by_name:
        resource.update_time.FromDatetime(now)


def already_exists(name: ResourceName) -> AlreadyExists:
    """The answer to a create whose name is taken."""
    kind = not_found(name).reason.removesuffix("_NOT_FOUND")
    return AlreadyExists(f"{kind}_ALREADY_EXISTS", None, **{kind.lower(): str(name)})  # type: ignore[arg-type]
