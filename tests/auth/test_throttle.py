"""Guessing passwords: how often it may fail, who has to wait, and who must not be made to."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chassis.config import ConfigError
from lepton.auth.v1 import session_service_pb2 as pb
from lepton.errors import LeptonError, ResourceExhausted
from services.auth import throttle
from services.auth.passwords import AT_ONCE, IN_LINE, Passwords
from services.auth.throttle import Throttle, ThrottleSettings, address_of
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until

HERE, THERE = "ipv4:192.0.2.1:1000", "ipv4:198.51.100.7:2000"
SETTINGS = ThrottleSettings()


def failures_until_stopped(throttle: Throttle, account: str, peer: str, most: int = 2000) -> int:
    """How many attempts in a row are looked at."""
    for count in range(most):
        try:
            throttle.begin(account, peer)
        except ResourceExhausted:
            return count
    return most


async def test_guessing_one_account_from_one_address_is_slowed_down() -> None:
    clock = ManualClock()
    guarded = Throttle(clock)
    assert failures_until_stopped(guarded, "users/alice", HERE) == SETTINGS.pair_failures
    with pytest.raises(ResourceExhausted) as caught:
        guarded.begin("users/alice", HERE)
    assert caught.value.reason == "SIGN_IN_THROTTLED"
    assert caught.value.retry_after_s == pytest.approx(SETTINGS.pair_refill_s)
    await clock.advance(SETTINGS.pair_refill_s)
    assert failures_until_stopped(guarded, "users/alice", HERE) == 1
    await clock.advance(86_400)
    assert failures_until_stopped(guarded, "users/alice", HERE) == SETTINGS.pair_failures  # and not more


def test_guessing_one_account_from_many_addresses_is_slowed_down() -> None:
    guarded = Throttle(ManualClock())
    count = 0
    for number in range(200):
        count += failures_until_stopped(guarded, "users/alice", f"ipv4:10.0.0.{number}:1")
    assert count == SETTINGS.account_failures


def test_who_guesses_does_not_lock_the_owner_out() -> None:
    guarded = Throttle(ManualClock())
    guarded.begin("users/alice", HERE).succeeded()
    for number in range(200):
        failures_until_stopped(guarded, "users/alice", f"ipv4:10.0.0.{number}:1")
    with pytest.raises(ResourceExhausted):  # somebody else, or her from where she never was
        guarded.begin("users/alice", THERE)
    for _ in range(100):
        guarded.begin("users/alice", HERE).succeeded()
    # From her own address too, guessing is slowed down.
    assert failures_until_stopped(guarded, "users/alice", HERE) == SETTINGS.pair_failures


def test_trying_one_password_on_all_accounts_is_slowed_down() -> None:
    guarded = Throttle(ManualClock())
    count = 0
    for number in range(500):
        count += failures_until_stopped(guarded, f"users/u{number}", HERE, most=1)
    assert count == SETTINGS.address_failures
    guarded.begin("users/alice", THERE)  # others are not


def test_what_succeeds_costs_nothing() -> None:
    guarded = Throttle(ManualClock())
    for _ in range(1000):
        guarded.begin("users/alice", HERE).succeeded()
    for _ in range(1000):
        guarded.begin("users/alice", HERE).undone()


def test_attempts_at_the_same_time_gain_nothing() -> None:
    """Each counts until it has succeeded: a thousand at once are not a thousand guesses."""
    guarded = Throttle(ManualClock())
    begun = [guarded.begin("users/alice", HERE) for _ in range(SETTINGS.pair_failures)]
    with pytest.raises(ResourceExhausted):
        guarded.begin("users/alice", HERE)
    begun[0].succeeded()
    guarded.begin("users/alice", HERE)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_ENTRIES", 100)
    monkeypatch.setattr(throttle, "_KNOWN", 100)
    guarded = Throttle(ManualClock())
    for number in range(1000):
        guarded.begin(f"users/u{number}", f"ipv4:10.0.{number % 250}.{number // 250}:1").succeeded()
    assert len(guarded._pairs.buckets) <= 100
    assert len(guarded._accounts.buckets) <= 100
    assert len(guarded._addresses.buckets) <= 100
    assert len(guarded._known) <= 100


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5000", "127.0.0.1"), ("ipv6:%5B::1%5D:5000", "::/64"),
        ("ipv6:[2001:db8:1:2:3::4]:5", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:192.0.2.1]:5", "192.0.2.1"), ("unix:/tmp/socket", "unix:/tmp/socket"), ("", ""),
    ],
)  # fmt: skip
def test_an_address_is_that_of_one_subscriber(peer: str, address: str) -> None:
    assert address_of(peer) == address


@pytest.mark.parametrize("wrong", [{"pair_failures": 0}, {"account_refill_s": 0.0}, {"address_failures": -1}])
def test_limits_that_let_nobody_or_anybody_in_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ThrottleSettings(**wrong)


async def attempt(auth: RunningAuth, user: str, password: str) -> str:
    credential = pb.PasswordCredential(user=user, password=password)
    try:
        await (await auth.client()).sessions.SignIn(pb.SignInRequest(password=credential))
    except LeptonError as error:
        return error.reason
    return "signed in"


async def test_over_the_wire_the_right_password_does_not_help_who_has_to_wait(tmp_path: Path) -> None:
    async with MemoryKV() as kv, running_auth(kv, tmp_path) as auth:
        assert await attempt(auth, "users/admin", auth.password) == "signed in"
        answers = [await attempt(auth, "users/admin", "wrong") for _ in range(12)]
        assert answers == ["SIGN_IN_FAILED"] * SETTINGS.pair_failures + ["SIGN_IN_THROTTLED"] * 2
        assert await attempt(auth, "users/admin", auth.password) == "SIGN_IN_THROTTLED"
        # An account that does not exist is treated as one that does.
        absent = [await attempt(auth, "users/absent", "wrong") for _ in range(12)]
        assert absent == answers


async def test_without_the_throttle_guessing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Throttle, "_kinds", lambda *_: iter(()))
    async with MemoryKV() as kv, running_auth(kv, tmp_path) as auth:
        answers = {await attempt(auth, "users/admin", "wrong") for _ in range(20)}
        assert answers == {"SIGN_IN_FAILED"}


async def test_what_says_nothing_about_the_credential_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object) -> bool:
        raise ResourceExhausted("SIGN_IN_BUSY", retry_after_s=1.0)

    async with MemoryKV() as kv, running_auth(kv, tmp_path) as auth:
        with monkeypatch.context() as patched:
            patched.setattr(Passwords, "verify", busy)
            assert {await attempt(auth, "users/admin", "x") for _ in range(20)} == {"SIGN_IN_BUSY"}
        assert await attempt(auth, "users/admin", auth.password) == "signed in"


class Blocking:
    """A hasher that is held up, and counts how many it works on at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = self.most = 0
        self._lock = threading.Lock()

    def verify(self, hashed: str, password: str) -> bool:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(30)
        with self._lock:
            self.running -= 1
        return True


async def test_passwords_are_hashed_few_at_a_time_whoever_gives_up() -> None:
    """A caller that goes away must not make room: its hash still takes its 46 MiB."""
    hasher, checked = Blocking(), Passwords(memory_kib=1024)
    checked._hasher = hasher  # type: ignore[assignment]
    for _ in range(5):
        callers = [asyncio.create_task(checked.verify("hash", "x")) for _ in range(4)]
        await until(lambda: hasher.running == AT_ONCE)
        for each in callers:
            each.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    assert hasher.most == AT_ONCE
    hasher.go.set()
    await until(lambda: checked._pending == 0)
    assert await checked.verify("hash", "x")
    assert hasher.most == AT_ONCE


async def test_a_semaphore_around_the_wait_would_let_more_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the limit that is given back when the caller gives up, while the hash goes on."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def run(self: Passwords, work: Callable[[], object]) -> object:
        async with slots:
            return await asyncio.to_thread(work)

    monkeypatch.setattr(Passwords, "_run", run)
    hasher, checked = Blocking(), Passwords(memory_kib=1024)
    checked._hasher = hasher  # type: ignore[assignment]
    for round_ in range(1, 3):
        callers = [asyncio.create_task(checked.verify("hash", "x")) for _ in range(AT_ONCE)]
        await until(lambda wanted=round_ * AT_ONCE: hasher.running == wanted)  # type: ignore[misc]
        for each in callers:
            each.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    assert hasher.most == 2 * AT_ONCE
    hasher.go.set()


async def test_the_line_before_the_hashing_is_short() -> None:
    hasher, checked = Blocking(), Passwords(memory_kib=1024)
    checked._hasher = hasher  # type: ignore[assignment]
    callers = [asyncio.create_task(checked.verify("hash", "x")) for _ in range(AT_ONCE + IN_LINE)]
    await until(lambda: checked._pending == AT_ONCE + IN_LINE)
    with pytest.raises(ResourceExhausted) as caught:
        await checked.verify("hash", "x")
    assert caught.value.reason == "SIGN_IN_BUSY"
    hasher.go.set()
    assert all(await asyncio.gather(*callers))


async def test_an_unknown_user_costs_as_much_time_as_a_wrong_password() -> None:
    """Both are one hash of the same cost: counted, not timed."""
    checked = Passwords(memory_kib=1024)
    hashed, verified = await checked.hash("right"), []
    real = checked._hasher.verify

    class Counting:
        def verify(self, kept: str, password: str) -> bool:
            verified.append(kept.rsplit("$", 2)[0])
            return real(kept, password)

    checked._hasher = Counting()  # type: ignore[assignment]
    assert not await checked.verify(None, "right")
    assert not await checked.verify(hashed, "wrong")
    assert await checked.verify(hashed, "right")
    assert len(set(verified)) == 1
    assert len(verified) == 3
