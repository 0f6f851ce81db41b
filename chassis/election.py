"""Leadership: one candidate at a time holds a key under a lease, and every write of a leader proves that it does."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from chassis.clock import Clock, SystemClock, wait_for_event
from chassis.kv import KV, Compacted, Compare, Entry, Get, KVError, Lease, LeaseNotFound, Put, absent, created
from chassis.logs import logger

_RECHECK_S: Final = 60.0

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """Being the leader: add `guard` to every transaction, and stop when `lost` is set."""

    candidate_id: str
    guard: Compare
    lost: asyncio.Event


class Election:
    """One candidate's part in the election for one key."""

    def __init__(
        self,
        kv: KV,
        key: str,
        candidate_id: str,
        *,
        ttl_s: int = 15,
        renew_deadline_s: float = 10,
        retry_s: float = 2,
        clock: Clock | None = None,
    ) -> None:
        if not retry_s < renew_deadline_s < ttl_s:
            raise ValueError("an election needs retry_s < renew_deadline_s < ttl_s")
        self._kv = kv
        self._key = key
        self._candidate_id = candidate_id
        self._ttl_s = ttl_s
        self._renew_deadline_s = renew_deadline_s
        self._retry_s = retry_s
        self._clock = clock or SystemClock()

    async def leader(self) -> str | None:
        """Who holds the key now; only for telling people, never for deciding."""
        entry = await self._kv.get(self._key)
        return entry.value.decode() if entry else None

    @asynccontextmanager
    async def lead(self) -> AsyncGenerator[Leadership, None]:
        """Wait for leadership, hold it for the block, hand it over at once on leaving.

        The block must end soon after `lost` is set. `lost` comes while the lease still has time left, so that the block
        can end before another leader begins; writes that are late all the same are refused by the guard.
        """
        async with AsyncExitStack() as held:
            lease, revision = await self._campaign()
            await held.enter_async_context(lease)
            lost = asyncio.Event()
            await held.enter_async_context(_beside(self._lose_without_renewal(lease), lost))
            await held.enter_async_context(_beside(self._lose_without_key(revision), lost))
            self._tell("leadership won", revision=revision)
            yield Leadership(candidate_id=self._candidate_id, guard=created(self._key, revision), lost=lost)

    async def _campaign(self) -> tuple[Lease, int]:
        """Try until the key is ours; the lease that holds it, and the revision that created it."""
        async with AsyncExitStack() as held:
            lease = await held.enter_async_context(await self._grant())
            while True:
                if lease.lost.is_set():
                    lease = await held.enter_async_context(await self._grant())
                try:
                    holder, revision = await self._claim(lease)
                    if holder.lease == lease.id:
                        held.pop_all()
                        return lease, holder.create_revision
                    await self._wait_until_gone(revision)
                except LeaseNotFound:
                    await lease.revoke()
                except KVError as error:
                    self._tell("election: trying again", reason=str(error))
                    await self._clock.sleep(self._retry_s)

    async def _grant(self) -> Lease:
        while True:
            try:
                return await self._kv.grant(self._ttl_s)
            except KVError as error:
                self._tell("election: no lease yet", reason=str(error))
                await self._clock.sleep(self._retry_s)

    async def _claim(self, lease: Lease) -> tuple[Entry, int]:
        """Create the key unless it is there; who holds it, and as of which revision.

        A claim whose answer was lost is recognised at the next attempt by its lease.
        """
        put = Put(self._key, self._candidate_id.encode(), lease.id)
        result = await self._kv.txn([absent(self._key)], [put, Get(self._key)], [Get(self._key)])
        holder = result.responses[-1].entry
        assert holder is not None  # in both branches the key exists when it is read
        return holder, result.revision

    async def _wait_until_gone(self, revision: int) -> None:
        """Wait for the deletion of the key; come back now and then to look, whatever the watch says."""
        gone = asyncio.Event()
        async with _beside(self._watch_deletion(revision), gone):
            await wait_for_event(gone, _RECHECK_S, self._clock)

    async def _watch_deletion(self, revision: int) -> None:
        """Return when the key was deleted after the revision, or when it is time to look whether it was."""
        try:
            async with aclosing(self._kv.watch(self._key, start_revision=revision + 1)) as batches:
                async for batch in batches:
                    if any(event.key == self._key and event.entry is None for event in batch.events):
                        return
        except Compacted:
            return
        except KVError:
            await self._clock.sleep(self._retry_s)

    async def _lose_without_renewal(self, lease: Lease) -> None:
        """Return when no renewal sent within the deadline was answered, on the monotonic clock."""
        while not lease.lost.is_set():
            left_s = lease.renewed_at + self._renew_deadline_s - self._clock.monotonic()
            if left_s <= 0:
                break
            await wait_for_event(lease.lost, left_s, self._clock)
        self._tell("leadership lost: not renewed in time")

    async def _lose_without_key(self, create_revision: int) -> None:
        """Return when the key is no longer the one we created, even though the lease is renewed."""
        revision = create_revision
        while True:
            await self._watch_deletion(revision)
            try:
                result = await self._kv.txn([created(self._key, create_revision)], [])
            except KVError:
                await self._clock.sleep(self._retry_s)
                continue
            if not result.succeeded:
                break
            revision = result.revision
        self._tell("leadership lost: the key is gone")

    def _tell(self, event: str, **facts: str | int) -> None:
        log.info(event, key=self._key, candidate=self._candidate_id, **facts)


@asynccontextmanager
async def _beside(watcher: Coroutine[None, None, None], ended: asyncio.Event) -> AsyncGenerator[None, None]:
    """Run the watcher beside the block, set the event when it ends; an error of the block comes out as it is."""
    task = asyncio.create_task(watcher)
    task.add_done_callback(lambda _: ended.set())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()
