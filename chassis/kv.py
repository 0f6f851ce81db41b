"""The key-value state that services keep: its values, its errors, and the protocol every store obeys."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias


class KVError(Exception):
    """What a store could not do. Wrong arguments raise ValueError instead, before anything is sent."""


class Unavailable(KVError):
    """The store cannot be reached now. The call had no effect; it may be repeated."""


class OutcomeUnknown(KVError):
    """A write was sent and no answer came: it may or may not have been applied. Read, then decide."""


class Refused(KVError):
    """The store understood the call and will not do it, whoever repeats it."""


class LeaseNotFound(KVError):
    """The lease named in a write has expired or was revoked. The call had no effect."""


class Compacted(KVError):
    """History before `compact_revision` is gone (0: the store did not say where it begins now)."""

    def __init__(self, compact_revision: int) -> None:
        super().__init__(f"history before revision {compact_revision or 'unknown'} is compacted")
        self.compact_revision = compact_revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A key as it stood at one revision."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Entries in key order, all read at one revision; give that revision back to read the next page."""

    entries: tuple[Entry, ...]
    revision: int
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """One condition of a transaction, on a key's revisions; an absent key has revision 0."""

    key: str
    field: Literal["create_revision", "mod_revision"]
    relation: Literal["equal", "greater"]
    revision: int


def absent(key: str) -> Compare:
    """The key does not exist."""
    return Compare(key=key, field="create_revision", relation="equal", revision=0)


def present(key: str) -> Compare:
    """The key exists."""
    return Compare(key=key, field="create_revision", relation="greater", revision=0)


def mod(key: str, revision: int) -> Compare:
    """The key was last changed at this revision (0: it does not exist)."""
    return Compare(key=key, field="mod_revision", relation="equal", revision=revision)


def created(key: str, revision: int) -> Compare:
    """The key is still the one that was created at this revision."""
    return Compare(key=key, field="create_revision", relation="equal", revision=revision)


@dataclass(frozen=True, slots=True)
class Put:
    """Set a key; `lease` is the id of the lease it shall die with."""

    key: str
    value: bytes
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove one key, if it is there."""

    key: str


@dataclass(frozen=True, slots=True)
class DeletePrefix:
    """Remove every key that begins with the prefix."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Get:
    """Read one key within the transaction."""

    key: str


Op: TypeAlias = Put | Delete | DeletePrefix | Get


@dataclass(frozen=True, slots=True, kw_only=True)
class OpResult:
    """What one operation answered: the entry a Get found, the number of keys a Delete removed."""

    entry: Entry | None = None
    deleted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnResult:
    """Whether the conditions held, the store's revision afterwards, and one result per operation carried out."""

    succeeded: bool
    revision: int
    responses: tuple[OpResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change of one key: its new entry, or None when it was deleted, at this revision."""

    key: str
    entry: Entry | None
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchBatch:
    """Whole revisions of changes, in order; watch from `revision` + 1 to continue. Without events it is a bookmark."""

    events: tuple[Event, ...]
    revision: int


class Lease(Protocol):
    """A promise of being alive. Leaving the context revokes it; keys put under it are deleted when it ends."""

    @property
    def id(self) -> int:
        """The id to give to Put."""
        ...

    @property
    def ttl_s(self) -> int:
        """Seconds that the store waits for a renewal; it may be more than was asked for."""
        ...

    @property
    def renewed_at(self) -> float:
        """Monotonic time at which the last renewal that succeeded was sent."""
        ...

    @property
    def lost(self) -> asyncio.Event:
        """Set once the lease has ended, or may have: revoked, unknown to the store, or not renewed within its TTL."""
        ...

    async def revoke(self) -> None:
        """End the lease now and delete its keys. Does nothing when it has ended already."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class KV(Protocol):
    """A strictly serialisable, revisioned store of keys, as etcd is."""

    async def get(self, key: str) -> Entry | None:
        """Read one key."""
        ...

    async def list(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> Page:
        """Read the keys under a prefix in order, after `start_after`, as they stood at `revision` (0: now)."""
        ...

    async def txn(self, compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        """Carry out `then` if every condition holds, else `otherwise`, atomically at one revision."""
        ...

    async def put(self, key: str, value: bytes, *, lease: int | None = None) -> int:
        """Set a key whatever its state and return the revision; only for tests and administration."""
        ...

    async def grant(self, ttl_s: int, *, keep_alive: bool = True) -> Lease:
        """Obtain a lease. It is renewed until it is revoked or lost; without `keep_alive` it just runs out."""
        ...

    def watch(self, prefix: str, *, start_revision: int = 0) -> AsyncGenerator[WatchBatch, None]:
        """Yield every change under a prefix from `start_revision` on (0: from now), each exactly once, for ever.

        Raises Compacted when the history asked for is gone.
        """
        ...


async def list_all(kv: KV, prefix: str, *, page_size: int = 1000) -> Page:
    """Read everything under a prefix as of one revision, page by page; raises Compacted if history overtakes it."""
    page = await kv.list(prefix, limit=page_size)
    entries = [*page.entries]
    while page.more:
        page = await kv.list(prefix, limit=page_size, start_after=entries[-1].key, revision=page.revision)
        entries += page.entries
    return Page(entries=tuple(entries), revision=page.revision, more=False)


async def follow(kv: KV, prefix: str) -> AsyncGenerator[WatchBatch, None]:
    """Yield all that is under a prefix as one batch, then every change; whoever applies the batches has a replica.

    After a compaction the prefix is read again and the difference is yielded, so no deletion is missed. A deletion
    found that way carries the revision of the read, since that of the deletion itself is gone.
    """
    known: dict[str, int] = {}
    while True:
        try:
            page = await list_all(kv, prefix)
            yield WatchBatch(events=tuple(_difference(known, page)), revision=page.revision)
            known = {entry.key: entry.mod_revision for entry in page.entries}
            async for batch in kv.watch(prefix, start_revision=page.revision + 1):
                yield batch
                for event in batch.events:
                    if event.entry is None:
                        known.pop(event.key, None)
                    else:
                        known[event.key] = event.revision
        except (Compacted, Unavailable):  # a read waits for its deadline before it is Unavailable: this does not spin
            continue


def _difference(known: dict[str, int], page: Page) -> Iterable[Event]:
    current = {entry.key for entry in page.entries}
    for key in known:
        if key not in current:
            yield Event(key=key, entry=None, revision=page.revision)
    for entry in page.entries:
        if known.get(entry.key) != entry.mod_revision:
            yield Event(key=entry.key, entry=entry, revision=entry.mod_revision)
