"""Pages of lists: reads them from the store at one revision; makes the signed tokens that lead from one to the next."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, Self

from google.protobuf.message import Message

from chassis.kv import KV, Compacted, Entry, Put, absent
from lepton.errors import InvalidArgument, OutOfRange

DEFAULT_SIZE: Final = 50
MAX_SIZE: Final = 1000
_READ_AT_LEAST: Final = 100
_MAC_BYTES: Final = 16


class ListRequest(Protocol):
    """A request of AIP-158's shape; any generated `List...Request` is one."""

    page_size: int
    page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One page: its entries in key order, and the token of the next page (empty: this is the last)."""

    entries: tuple[Entry, ...]
    next_page_token: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Position:
    after: str
    revision: int


class Pager:
    """Lists what lies under a prefix, page by page.

    The replicas of a service need one key: `pager = await Pager.open(kv, "/lepton/scheduler/page_key")`. Then:

        listing = await pager.page("/lepton/trainer/jobs/acme/", request)
        return ListJobsResponse(jobs=map(job_of, listing.entries), next_page_token=listing.next_page_token)

    Every page shows the state of the first page's revision. A token only serves the request that it came from: same
    message type, same fields but for the page size, same prefix.
    """

    def __init__(self, kv: KV, key: bytes) -> None:
        self._kv = kv
        self._key = key

    @classmethod
    async def open(cls, kv: KV, key: str) -> Self:
        """A pager that signs with the secret kept at `key`; the first replica makes it."""
        fresh = secrets.token_bytes(32)
        await kv.txn([absent(key)], [Put(key, fresh)])
        entry = await kv.get(key)
        if entry is None:
            raise RuntimeError(f"{key} was deleted while it was being read")
        return cls(kv, entry.value)

    async def page(self, prefix: str, request: ListRequest, *, keep: Callable[[Entry], bool] | None = None) -> Listing:
        """The page that the request asks for, of those entries that `keep` accepts.

        Raises InvalidArgument (INVALID_FIELD, PAGE_TOKEN_INVALID) and OutOfRange (PAGE_TOKEN_EXPIRED).
        """
        size = page_size(request)
        bound = _bound_to(prefix, request)
        start = self._read(request.page_token, bound) if request.page_token else _Position(after="", revision=0)
        try:
            found, revision = await self._collect(prefix, start, size + 1, keep)
        except Compacted as error:
            raise OutOfRange("PAGE_TOKEN_EXPIRED") from error
        token = ""
        if len(found) > size:
            token = self._write(_Position(after=found[size - 1].key[len(prefix) :], revision=revision), bound)
        return Listing(entries=tuple(found[:size]), next_page_token=token, revision=revision)

    def position(self, prefix: str, request: ListRequest) -> str:
        """Where a list that is not read from the store goes on: what `token` was given; empty for its first page."""
        return self._read(request.page_token, _bound_to(prefix, request)).after if request.page_token else ""

    def token(self, prefix: str, request: ListRequest, after: str) -> str:
        """The token of the page behind `after`, for such a list."""
        return self._write(_Position(after=after, revision=0), _bound_to(prefix, request))

    async def _collect(
        self, prefix: str, start: _Position, wanted: int, keep: Callable[[Entry], bool] | None
    ) -> tuple[list[Entry], int]:
        found: list[Entry] = []
        after = prefix + start.after if start.after else ""
        revision = start.revision
        while True:
            limit = wanted if keep is None else max(wanted, _READ_AT_LEAST)
            page = await self._kv.list(prefix, limit=limit, start_after=after, revision=revision)
            revision = page.revision
            found += page.entries if keep is None else filter(keep, page.entries)
            if len(found) >= wanted or not page.more:
                return found[:wanted], revision
            after = page.entries[-1].key

    def _write(self, position: _Position, bound: bytes) -> str:
        body = json.dumps([position.after, position.revision], separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._mac(body, bound) + body).decode().rstrip("=")

    def _read(self, token: str, bound: bytes) -> _Position:
        try:
            data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError as error:
            raise _invalid() from error
        mac, body = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body, bound)):
            raise _invalid()
        after, revision = json.loads(body)
        return _Position(after=after, revision=revision)

    def _mac(self, body: bytes, bound: bytes) -> bytes:
        return hmac.digest(self._key, bound + body, "sha256")[:_MAC_BYTES]


def page_size(request: ListRequest) -> int:
    """How many items to return: the default for 0, at most MAX_SIZE; InvalidArgument for a negative number."""
    if request.page_size < 0:
        raise InvalidArgument("INVALID_FIELD", fields={"page_size": "must not be negative"})
    return min(request.page_size or DEFAULT_SIZE, MAX_SIZE)


def _bound_to(prefix: str, request: ListRequest) -> bytes:
    """What a token is good for, as a digest: everything in the request but the position itself."""
    digest = hashlib.sha256(prefix.encode())
    if isinstance(request, Message):
        same = type(request)()
        same.CopyFrom(request)
        for field in ("page_size", "page_token"):
            same.ClearField(field)
        digest.update(b"\0" + same.DESCRIPTOR.full_name.encode() + b"\0" + same.SerializeToString(deterministic=True))
    return digest.digest()


def _invalid() -> InvalidArgument:
    return InvalidArgument(
        "PAGE_TOKEN_INVALID", fields={"page_token": "is not the next_page_token of the same request; start without one"}
    )
