"""Login throttling: how often signing in may fail for an account and from an address, before it has to wait.

Three buckets of failures, each refilled with time; whoever finds one empty waits, and nothing is hashed for them:

- an account from one address: so that a password cannot be guessed;
- an account from all addresses together: so that it cannot be guessed from many. An address from which the account has
  signed in before is not stopped by it, so that who guesses cannot lock the owner out;
- an address, for all accounts: so that one password cannot be tried on all.

Unknown accounts are counted as those that exist. Kept in memory, by each replica for itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import unquote

from chassis.clock import Clock
from chassis.config import ConfigError
from lepton.errors import ResourceExhausted

_ENTRIES: Final = 20_000
_KNOWN: Final = 20_000
_IPV6_PREFIX: Final = 64  # what one subscriber has


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleSettings:
    """How many failures at once, and after how many seconds one more."""

    pair_failures: int = 10
    pair_refill_s: float = 30.0
    account_failures: int = 50
    account_refill_s: float = 10.0
    address_failures: int = 100
    address_refill_s: float = 2.0

    def __post_init__(self) -> None:
        for each in fields(self):
            least = 1 if each.name.endswith("failures") else 0.01
            if getattr(self, each.name) < least:
                raise ConfigError(f"throttle.{each.name} must be {least} or more")


@dataclass(slots=True)
class _Bucket:
    level: float
    seen: float


@dataclass(slots=True)
class _Buckets:
    """Buckets of one kind."""

    capacity: int
    refill_s: float
    buckets: dict[str, _Bucket] = field(default_factory=dict)

    def of(self, key: str, now: float) -> _Bucket:
        """The bucket as it is now."""
        bucket = self.buckets.get(key)
        if bucket is None:
            if len(self.buckets) >= _ENTRIES:
                self._make_room(now)
            bucket = self.buckets[key] = _Bucket(float(self.capacity), now)
        bucket.level = min(float(self.capacity), bucket.level + (now - bucket.seen) / self.refill_s)
        bucket.seen = now
        return bucket

    def _make_room(self, now: float) -> None:
        """Forget buckets that are full again; where none is, those that were used longest ago."""
        full_after = self.capacity * self.refill_s
        gone = [key for key, each in self.buckets.items() if now - each.seen >= full_after]
        oldest = sorted(self.buckets, key=lambda key: self.buckets[key].seen)
        for key in gone or oldest[: _ENTRIES // 10]:
            del self.buckets[key]


class Attempt:
    """An attempt that counts as a failure until it has succeeded: attempts at the same time gain nothing."""

    def __init__(self, throttle: "Throttle", account: str, address: str, taken: list[tuple[_Buckets, str]]) -> None:
        self._throttle = throttle
        self._account = account
        self._address = address
        self._taken = taken

    def succeeded(self) -> None:
        """It was no failure: what it took is given back."""
        self.undone()
        self._throttle.remember(self._account, self._address)

    def undone(self) -> None:
        """It came to no decision: what it took is given back."""
        self._throttle.give_back(self._taken)


class Throttle:
    """Decides whether an attempt to sign in is looked at."""

    def __init__(self, clock: Clock, settings: ThrottleSettings | None = None) -> None:
        settings = settings or ThrottleSettings()
        self._clock = clock
        self._pairs = _Buckets(settings.pair_failures, settings.pair_refill_s)
        self._accounts = _Buckets(settings.account_failures, settings.account_refill_s)
        self._addresses = _Buckets(settings.address_failures, settings.address_refill_s)
        self._known: dict[tuple[str, str], None] = {}

    def begin(self, account: str, peer: str) -> Attempt:
        """Count an attempt for an account (empty where it names none) from a peer, as gRPC spells it.

        Raises ResourceExhausted (SIGN_IN_THROTTLED), which says when to come again.
        """
        address, now = address_of(peer), self._clock.monotonic()
        taken = list(self._kinds(account, address))
        for kind, key in taken:
            bucket = kind.of(key, now)
            if bucket.level < 1.0:
                raise ResourceExhausted("SIGN_IN_THROTTLED", retry_after_s=(1.0 - bucket.level) * kind.refill_s)
        for kind, key in taken:
            kind.of(key, now).level -= 1.0
        return Attempt(self, account, address, taken)

    def give_back(self, taken: list[tuple[_Buckets, str]]) -> None:
        """Undo what an attempt took."""
        now = self._clock.monotonic()
        for kind, key in taken:
            bucket = kind.of(key, now)
            bucket.level = min(float(kind.capacity), bucket.level + 1.0)

    def remember(self, account: str, address: str) -> None:
        """The account signs in from there."""
        if account:
            self._known.pop((account, address), None)
            self._known[account, address] = None
            if len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]

    def _kinds(self, account: str, address: str) -> Iterator[tuple[_Buckets, str]]:
        yield self._addresses, address
        if account:
            yield self._pairs, f"{account} {address}"
            if (account, address) not in self._known:
                yield self._accounts, account


def address_of(peer: str) -> str:
    """The address of a peer such as `ipv4:127.0.0.1:5000`, or the /64 network of one that has IPv6."""
    _, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]")
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return peer[:64]
    if address.version == 6:
        mapped = getattr(address, "ipv4_mapped", None)
        return str(mapped) if mapped else str(ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)
