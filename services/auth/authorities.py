"""The mesh's root authorities as the store has them: followed by every replica, and replaced one by the other."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Final

from chassis.clock import Clock, wait_for_event
from chassis.kv import KV, follow, mod
from chassis.logs import logger
from lepton.errors import FailedPrecondition, InvalidArgument
from services.auth import layout
from services.auth.audit import AuditTrail, Deed
from services.auth.authority_record import roots_of, roots_put
from services.auth.ca import Authority
from services.auth.kek import Kek
from services.auth.roots import Roots

log = logger(__name__)
_LONGEST_WAIT_S: Final = 3600.0


class Authorities:
    """The roots as the store has them, followed for ever."""

    def __init__(self, kv: KV, kek: Kek, audit: AuditTrail, clock: Clock, certificate_life: timedelta) -> None:
        self._kv, self._kek, self._audit, self._clock = kv, kek, audit, clock
        self._certificate_life = certificate_life
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], Awaitable[None]]] = []
        self._roots: Roots | None = None

    async def load(self) -> bool:
        """Reads the store; False when it is empty."""
        entry = await self._kv.get(layout.AUTHORITY)
        if entry is not None:
            self._roots = roots_of(entry, self._kek, self._clock)
        return entry is not None

    def on_change(self, listener: Callable[[], Awaitable[None]]) -> None:
        """Call this whenever another root signs or is trusted."""
        self._listeners.append(listener)

    @property
    def roots(self) -> Roots:
        """The roots; once they are loaded."""
        assert self._roots is not None
        return self._roots

    @property
    def now(self) -> datetime:
        """The moment for which it is asked."""
        return self._clock.now()

    @property
    def signing(self) -> Authority:
        """The root that signs now."""
        return self.roots.signing(self._clock.now())

    @property
    def trust_bundle_pem(self) -> str:
        """The roots to trust now."""
        return self.roots.bundle_pem(self._clock.now())

    async def run(self) -> None:
        """Follows the store and the clock, and tells the listeners what has changed; for ever."""
        following = asyncio.create_task(self._follow())
        following.add_done_callback(lambda _: self._changed.set())
        known = self.trust_bundle_pem
        try:
            while not following.done():
                changes_at, now = self.roots.changes_at(self._clock.now()), self._clock.now()
                left_s = (changes_at - now).total_seconds() if changes_at is not None else _LONGEST_WAIT_S
                await wait_for_event(self._changed, min(max(left_s, 0.001), _LONGEST_WAIT_S), self._clock)
                self._changed.clear()
                if self.trust_bundle_pem == known:
                    continue
                known = self.trust_bundle_pem
                trusted = [each.fingerprint for each in self.roots.trusted(self._clock.now())]
                log.info("authorities changed", signing=self.signing.fingerprint, trusted=trusted)
                for listener in self._listeners:
                    await listener()
            await following
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def rotate(self, overlap: timedelta | None) -> None:
        """Publishes a new root, which takes over after the overlap (None = twice as long as certificates live).

        Raises InvalidArgument when members could not renew within it, FailedPrecondition (AUTHORITY_ROTATING).
        """
        overlap = 2 * self._certificate_life if overlap is None else overlap
        if overlap < self._certificate_life:
            least_s = self._certificate_life.total_seconds()
            problem = f"must be at least {least_s:.0f} s, as long as certificates live: members renew within that time"
            raise InvalidArgument("INVALID_FIELD", fields={"overlap": problem})
        while True:
            entry = await self._kv.get(layout.AUTHORITY)
            assert entry is not None
            roots, now = roots_of(entry, self._kek, self._clock), self._clock.now()
            if roots.next is not None and not roots.is_over(now):
                assert roots.trust_end is not None
                raise FailedPrecondition("AUTHORITY_ROTATING", until=roots.trust_end.isoformat(timespec="seconds"))
            fresh = Authority.create(self._clock)
            changing = Roots(first=roots.signing(now), next=fresh, sign_time=now + overlap, trust_end=now + 2 * overlap)
            deed = Deed(resource=f"authorities/{fresh.fingerprint}")
            put = roots_put(changing, self._kek)
            done = await self._audit.commit(deed, [mod(layout.AUTHORITY, entry.mod_revision)], [put])
            if done.succeeded:
                break
        await self.load()
        self._changed.set()

    async def _follow(self) -> None:
        async with aclosing(follow(self._kv, layout.AUTHORITY)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.key == layout.AUTHORITY and event.entry is not None:
                        self._roots = roots_of(event.entry, self._kek, self._clock)
                        self._changed.set()
