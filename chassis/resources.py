"""Resources of one type in the key-value state: read, created, changed, deleted; every write is guarded."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.kv import KV, Compare, Delete, Entry, Op, Put, absent, mod
from chassis.requests import Claim
from lepton.errors import Aborted, AlreadyExists
from lepton.names import ResourceName, not_found

_ATTEMPTS: Final = 64
"""How many writers of one resource may get in before us: a round that we lose is one that another has won."""


class Resource(Protocol):
    """What a stored resource message has, beside its own fields."""

    etag: str

    @classmethod
    def FromString(cls, s: bytes) -> Self:
        """Reads a serialized message."""
        ...

    def SerializeToString(self) -> bytes:
        """The message's bytes."""
        ...


R = TypeVar("R", bound=Resource)
N = TypeVar("N", bound=ResourceName)


class Resources(Generic[N, R]):
    """The resources of one type; `key` says where the one of a name lies."""

    def __init__(self, kv: KV, message: type[R], key: Callable[[N], str]) -> None:
        self._kv, self._message, self._key = kv, message, key

    def of(self, entry: Entry) -> R:
        """The resource of an entry, its etag set."""
        resource = self._message.FromString(entry.value)
        resource.etag = f'"{entry.mod_revision}"'
        return resource

    async def find(self, name: N) -> R | None:
        """A resource; None when there is none."""
        entry = await self._kv.get(self._key(name))
        return None if entry is None else self.of(entry)

    async def get(self, name: N) -> R:
        """A resource. Raises NotFound."""
        found = await self.find(name)
        if found is None:
            raise not_found(name)
        return found

    async def create(
        self,
        name: N,
        resource: R,
        claim: Claim | None = None,
        *,
        guard: Sequence[Compare] = (),
        beside: Sequence[Op] = (),
    ) -> R | None:
        """Stores a new resource and the request's answer at once; None when the state has moved: look again.

        Raises AlreadyExists.
        """
        key, claim = self._key(name), claim or Claim()
        if await self._kv.get(key) is not None:
            kind = type(name).pattern.rsplit("{", 1)[-1].rstrip("}")
            facts: dict[str, Any] = {kind: str(name)}
            raise AlreadyExists(f"{kind.upper()}_ALREADY_EXISTS", **facts)
        write = Put(key, resource.SerializeToString())
        done = await self._kv.txn(
            [absent(key), *claim.guard, *guard],
            [write, *claim.record(resource, str(name)), *beside],  # type: ignore[arg-type]
        )
        if not done.succeeded:
            return None
        resource.etag = f'"{done.revision}"'
        return resource

    async def change(
        self,
        name: N,
        change: Callable[[R], None],
        *,
        etag: str = "",
        guard: Sequence[Compare] = (),
        beside: Callable[[R], Sequence[Op]] = lambda _resource: (),
    ) -> R:
        """Lets `change` edit a copy of the resource and stores it, with further operations in the same transaction.

        A resource that `change` leaves as it was is not written. Raises NotFound, what `change` raises, and Aborted:
        ETAG_MISMATCH, GUARD_FAILED, or WRITE_CONFLICT when other writers never stop.
        """
        key = self._key(name)
        for _ in range(_ATTEMPTS):
            entry = await self._kv.get(key)
            if entry is None:
                raise not_found(name)
            before = self.of(entry)
            if etag and etag != before.etag:
                raise Aborted("ETAG_MISMATCH", name=str(name), etag=before.etag)
            after = self.of(entry)
            change(after)
            operations = beside(after)
            if after == before and not operations:
                return before
            _stamp(after)
            after.etag = ""
            write = Put(key, after.SerializeToString())
            done = await self._kv.txn([mod(key, entry.mod_revision), *guard], [write, *operations])
            if done.succeeded:
                after.etag = f'"{done.revision}"'
                return after
            await self._check_moved(name, entry)
        raise Aborted("WRITE_CONFLICT", name=str(name))

    async def delete(
        self,
        name: N,
        *,
        etag: str = "",
        check: Callable[[R], None] = lambda _resource: None,
        guard: Sequence[Compare] = (),
        beside: Sequence[Op] = (),
    ) -> R:
        """Deletes a resource that `check` does not object to. Raises NotFound, what `check` raises, Aborted."""
        key = self._key(name)
        for _ in range(_ATTEMPTS):
            entry = await self._kv.get(key)
            if entry is None:
                raise not_found(name)
            resource = self.of(entry)
            if etag and etag != resource.etag:
                raise Aborted("ETAG_MISMATCH", name=str(name), etag=resource.etag)
            check(resource)
            done = await self._kv.txn([mod(key, entry.mod_revision), *guard], [Delete(key), *beside])
            if done.succeeded:
                return resource
            await self._check_moved(name, entry)
        raise Aborted("WRITE_CONFLICT", name=str(name))

    async def _check_moved(self, name: N, entry: Entry) -> None:
        """After a transaction that failed: when the resource is as it was, it is the guard that does not hold."""
        current = await self._kv.get(entry.key)
        if current is not None and current.mod_revision == entry.mod_revision:
            raise Aborted("GUARD_FAILED", name=str(name))


def now() -> Timestamp:
    """The present time."""
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


def _stamp(resource: Resource) -> None:
    updated = getattr(resource, "update_time", None)
    if updated is not None:
        updated.GetCurrentTime()
