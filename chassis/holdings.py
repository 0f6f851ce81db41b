"""What principals hold of one kind of resource, counted for those whose limits the policy sets, without races."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Protocol
from weakref import WeakValueDictionary

from chassis.clock import Clock, wait_for_event
from chassis.kv import KV, Compare, Op, Put, WatchBatch, follow, mod
from chassis.principal_limits import Allowance, PrincipalLimits
from lepton.errors import ResourceExhausted, Unavailable

_CATCH_UP_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A resource that has not ended: whose it is, and how many thousandths of devices it asks for at its largest."""

    holder: str
    device_milli: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What the transaction that makes the resource has to hold, so that two of them cannot both be the last one."""

    guard: tuple[Compare, ...] = ()
    ops: tuple[Op, ...] = ()


class Limits(Protocol):
    """Admits what is made within its holder's limits."""

    def admit(self, holder: str, device_milli: int = 0, instead_of: str = "") -> AbstractAsyncContextManager[Admitted]:
        """Around the transaction that makes a resource, or changes that of the key `instead_of`."""
        ...

    def counts(self, holder: str) -> bool:
        """Whether a holder has a limit at all."""
        ...


class Unlimited:
    """Admits everything; for services without a policy."""

    def admit(self, holder: str, device_milli: int = 0, instead_of: str = "") -> AbstractAsyncContextManager[Admitted]:
        """Nothing is counted."""
        del holder, device_milli, instead_of
        return nullcontext(Admitted())

    def counts(self, holder: str) -> bool:
        """Nobody has."""
        del holder
        return False


class Policy(Protocol):
    """Where limits come from."""

    @property
    def limits(self) -> PrincipalLimits:
        """Those in force."""
        ...

    def on_change(self, listener: Callable[..., None]) -> None:
        """Call this when they may have changed."""
        ...


class Holdings:
    """Follows the resources below a prefix, from the first limit on.

    `read` says what one holds, None of one that has ended; `guards` is a prefix of its own; `kind` is what people call
    such resources, for example `jobs`.
    """

    def __init__(
        self,
        kv: KV,
        policy: Policy,
        clock: Clock,
        *,
        prefix: str,
        guards: str,
        kind: str,
        read: Callable[[bytes], Holding | None],
    ) -> None:
        self._kv, self._policy, self._clock = kv, policy, clock
        self._prefix, self._guards, self._kind, self._read = prefix, guards, kind, read
        self._held: dict[str, Holding] = {}  # by key
        self._by_holder: dict[str, dict[str, int]] = {}  # key -> thousandths of devices
        self._revision = 0
        self._moved = asyncio.Event()
        self._needed = asyncio.Event()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        policy.on_change(lambda *_: self._look())
        self._look()

    async def run(self) -> None:
        """Follow the store for ever, once somebody has a limit."""
        await self._needed.wait()
        async with aclosing(follow(self._kv, self._prefix)) as batches:
            async for batch in batches:
                self._apply(batch)

    def counts(self, holder: str) -> bool:
        """Whether a holder has a limit of what it may hold."""
        return bool(holder) and self._policy.limits.of(holder).is_counted

    @asynccontextmanager
    async def admit(self, holder: str, device_milli: int = 0, instead_of: str = "") -> AsyncIterator[Admitted]:
        """See `Limits`. Raises ResourceExhausted naming the limit and what is used of it."""
        allowance = self._policy.limits.of(holder)
        if not self.counts(holder):
            yield Admitted()
            return
        turn = self._turns.setdefault(holder, asyncio.Lock())
        async with turn:  # of this process; the guard is for the others
            key = f"{self._guards}{blake2b(holder.encode(), digest_size=16).hexdigest()}"
            entry = await self._kv.get(key)
            revision = entry.mod_revision if entry is not None else 0
            await self._reached(max(revision, 1))
            self._check(holder, allowance, device_milli, instead_of)
            yield Admitted(guard=(mod(key, revision),), ops=(Put(key, b""),))

    def _check(self, holder: str, allowance: Allowance, device_milli: int, instead_of: str) -> None:
        held = self._by_holder.get(holder, {})
        is_new = instead_of not in held
        more_milli = device_milli - held.get(instead_of, 0)
        most, most_milli = allowance.max_unfinished, allowance.max_device_milli
        if most is not None and is_new and len(held) + 1 > most:
            raise _exceeded(holder, self._kind, str(most), str(len(held)), "1")
        used_milli = sum(held.values())
        if most_milli is not None and more_milli > 0 and used_milli + more_milli > most_milli:
            unit = f"devices of {self._kind}"
            raise _exceeded(holder, unit, *(f"{each / 1000:g}" for each in (most_milli, used_milli, more_milli)))

    async def _reached(self, revision: int) -> None:
        """Wait until everything is counted that was made up to a revision."""
        deadline = self._clock.monotonic() + _CATCH_UP_S
        while self._revision < revision:
            if not await wait_for_event(self._moved, deadline - self._clock.monotonic(), self._clock):
                raise Unavailable("STORE_UNAVAILABLE", retry_after_s=1.0)

    def _apply(self, batch: WatchBatch) -> None:
        for event in batch.events:
            former = self._held.pop(event.key, None)
            if former is not None:
                self._by_holder[former.holder].pop(event.key)
                if not self._by_holder[former.holder]:
                    del self._by_holder[former.holder]
            holding = self._read(event.entry.value) if event.entry is not None else None
            if holding is not None and holding.holder:
                self._held[event.key] = holding
                self._by_holder.setdefault(holding.holder, {})[event.key] = holding.device_milli
        self._revision = batch.revision
        self._moved.set()
        self._moved = asyncio.Event()

    def _look(self) -> None:
        if self._policy.limits.is_counted:
            self._needed.set()


def _exceeded(holder: str, unit: str, limit: str, used: str, wanted: str) -> ResourceExhausted:
    what = f"at most {limit} {unit}; {used} are taken and {wanted} more asked for"
    return ResourceExhausted(
        "PRINCIPAL_LIMIT_EXCEEDED",
        fields={holder: what},
        principal=holder,
        limit=limit,
        unit=unit,
        used=used,
        wanted=wanted,
    )
