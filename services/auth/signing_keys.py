"""Rotation of signing keys: the next is published before it signs, the former is kept until nothing needs it."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

from chassis.kv import Compare, Delete, Entry, Op, Put, absent, mod
from chassis.tokens import LEEWAY_S
from lepton.errors import FailedPrecondition
from lepton.internal.v1.credentials_pb2 import SigningKeyRecord
from services.auth import layout
from services.auth.audit import Deed
from services.auth.kek import Kek
from services.auth.keys import KNOWN_AFTER, KeyRing, new_key
from services.auth.policy import Policy
from services.auth.store import Store

_MARGIN: Final = timedelta(seconds=60)


class SigningKeys:
    """Makes new signing keys and forgets old ones."""

    def __init__(self, store: Store, policy: Policy, kek: Kek, ring: KeyRing, access_lifetime: timedelta) -> None:
        self._store = store
        self._policy = policy
        self._kek = kek
        self._ring = ring
        self._access_lifetime = access_lifetime

    @property
    def signing(self) -> str:
        """The id of the key that signs now."""
        return self._ring.signing_key(self._policy.signing_keys).kid

    async def rotate(self, *, distrust_former: bool) -> None:
        """Publish a new key, which signs once every service has it. A former key that leaked is distrusted at once."""

        async def write() -> int | None:
            entries = (await self._store.kv.list(layout.SIGNING_KEYS)).entries
            now = self._store.clock.now()
            newest = max(map(_created, entries), default=None)
            if newest is not None and not distrust_former and now - newest < KNOWN_AFTER:
                left_s = (newest + KNOWN_AFTER - now).total_seconds()
                raise FailedPrecondition("ROTATION_UNDER_WAY", wait_s=f"{left_s:.0f}")
            fresh = new_key(self._kek, self._store.clock)
            gone = entries if distrust_former else superfluous(entries, now, self._access_lifetime)
            guard: list[Compare] = [absent(layout.signing_key(fresh.kid))]
            guard += [mod(each.key, each.mod_revision) for each in entries]
            then: list[Op] = [Put(layout.signing_key(fresh.kid), fresh.SerializeToString())]
            # Every kept key is written anew, so that of two rotations at once only one is carried out.
            then += [Delete(each.key) if each in gone else Put(each.key, each.value) for each in entries]
            done = await self._store.audit.commit(Deed(resource=f"signingKeys/{fresh.kid}"), guard, then)
            return done.revision if done.succeeded else None

        await self._policy.reached(await self._store.retry(write))


def superfluous(entries: Iterable[Entry], now: datetime, access_lifetime: timedelta) -> Sequence[Entry]:
    """The keys whose last token has expired: their successor has signed for longer than a token lives."""
    by_age = sorted(entries, key=_created)
    enough = KNOWN_AFTER + access_lifetime + timedelta(seconds=LEEWAY_S) + _MARGIN
    return [each for each, successor in pairwise(by_age) if now - _created(successor) >= enough]


def _created(entry: Entry) -> datetime:
    return SigningKeyRecord.FromString(entry.value).create_time.ToDatetime(tzinfo=UTC)
