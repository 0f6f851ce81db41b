"""Elections: one leader at a time, told in time when it is no longer one, and refused when it writes all the same."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from chassis.clock import Clock
from chassis.election import Election, Leadership
from chassis.kv import Compare, Delete, Op, OutcomeUnknown, Put, TxnResult, Unavailable
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV, MemoryLease

KEY = "/lepton/test/leader"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def kv(clock: ManualClock) -> AsyncIterator[MemoryKV]:
    async with MemoryKV(clock) as kv:
        yield kv


class Candidate:
    """Leads in the background from the moment it can until it is told to stop."""

    def __init__(self, kv: MemoryKV, name: str, clock: Clock) -> None:
        self.election = Election(kv, KEY, name, clock=clock)
        self.leadership: Leadership | None = None
        self.may_stop = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.election.lead() as self.leadership:
            await self.may_stop.wait()
        self.leadership = None

    async def stop(self) -> None:
        self.may_stop.set()
        await self.task


@pytest_asyncio.fixture
async def enter(kv: MemoryKV, clock: ManualClock) -> AsyncIterator[Callable[[str], Candidate]]:
    """Enter a candidate; it is withdrawn when the test ends."""
    async with AsyncExitStack() as entered:

        def enter_candidate(name: str) -> Candidate:
            candidate = Candidate(kv, name, clock)
            entered.push_async_callback(asyncio.wait, {candidate.task})
            entered.callback(candidate.task.cancel)
            return candidate

        yield enter_candidate


def leaders(*candidates: Candidate) -> list[bool]:
    return [candidate.leadership is not None for candidate in candidates]


async def lease_of_leader(kv: MemoryKV) -> int:
    entry = await kv.get(KEY)
    assert entry is not None
    return entry.lease


async def test_the_first_candidate_leads_and_the_others_wait(
    kv: MemoryKV, clock: ManualClock, enter: Callable[[str], Candidate]
) -> None:
    first = enter("first")
    await clock.settle()
    second, third = enter("second"), enter("third")
    await clock.advance(1000)
    assert leaders(first, second, third) == [True, False, False]
    assert await second.election.leader() == "first"
    assert first.leadership is not None
    assert not first.leadership.lost.is_set()


async def test_a_leader_that_leaves_is_followed_at_once(
    kv: MemoryKV, clock: ManualClock, enter: Callable[[str], Candidate]
) -> None:
    first = enter("first")
    await clock.settle()
    second = enter("second")
    await clock.settle()
    await first.stop()
    await clock.settle()  # no time passes: the deletion is watched for
    assert leaders(first, second) == [False, True]


async def test_a_leader_that_cannot_renew_stops_before_another_begins(
    kv: MemoryKV, clock: ManualClock, enter: Callable[[str], Candidate]
) -> None:
    first = enter("first")
    await clock.settle()
    second = enter("second")
    await clock.advance(100)
    kv.stall(await lease_of_leader(kv))
    assert first.leadership is not None
    await clock.advance(9.9)
    assert not first.leadership.lost.is_set()
    await clock.advance(0.2)
    assert first.leadership.lost.is_set()
    await clock.advance(4.8)
    assert leaders(second) == [False]
    await clock.advance(0.2)
    assert leaders(second) == [True]


async def test_a_leader_whose_key_is_deleted_is_told(
    kv: MemoryKV, clock: ManualClock, enter: Callable[[str], Candidate]
) -> None:
    first = enter("first")
    await clock.settle()
    leadership = first.leadership
    assert leadership is not None
    await kv.compact(await kv.put(KEY + "-of-someone-else", b""))
    await clock.settle()
    assert not leadership.lost.is_set()
    await kv.txn([], [Delete(KEY)])
    await clock.settle()
    assert leadership.lost.is_set()


async def test_a_stale_leader_is_refused_by_the_guard_and_only_by_the_guard(
    kv: MemoryKV, clock: ManualClock, enter: Callable[[str], Candidate]
) -> None:
    first = enter("first")
    await clock.settle()
    second = enter("second")
    stale = first.leadership
    assert stale is not None
    assert (await kv.txn([stale.guard], [Put("/work", b"first")])).succeeded
    kv.stall(await lease_of_leader(kv))
    await clock.advance(16)
    fresh = second.leadership
    assert fresh is not None
    assert (await kv.txn([fresh.guard], [Put("/work", b"second")])).succeeded
    assert not (await kv.txn([stale.guard], [Put("/work", b"stale")])).succeeded
    assert (await kv.txn([], [Put("/work", b"stale")])).succeeded  # the control: without the guard it is accepted


async def test_a_leader_elected_again_cannot_use_its_old_guard(
    kv: MemoryKV, clock: ManualClock, enter: Callable[[str], Candidate]
) -> None:
    first = enter("same")
    await clock.settle()
    old = first.leadership
    assert old is not None
    await first.stop()
    enter("same")
    await clock.settle()
    assert not (await kv.txn([old.guard], [Put("/work", b"1")])).succeeded


async def test_an_error_of_the_block_comes_out_as_it_is_and_frees_the_key(kv: MemoryKV, clock: ManualClock) -> None:
    with pytest.raises(KeyError):
        async with Election(kv, KEY, "first", clock=clock).lead():
            raise KeyError
    assert await kv.get(KEY) is None


class FailingKV(MemoryKV):
    """Real, but the next grants and transactions end in the errors queued here; unknown outcomes are applied."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.grant_errors: list[Exception] = []
        self.txn_errors: list[Exception] = []

    async def grant(self, ttl_s: int, *, keep_alive: bool = True) -> MemoryLease:
        if self.grant_errors:
            raise self.grant_errors.pop(0)
        return await super().grant(ttl_s, keep_alive=keep_alive)

    async def txn(self, compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        error = self.txn_errors.pop(0) if self.txn_errors else None
        if error is None or isinstance(error, OutcomeUnknown):
            result = await super().txn(compare, then, otherwise)
        if error is not None:
            raise error
        return result


async def test_a_claim_whose_answer_was_lost_is_still_a_claim(clock: ManualClock) -> None:
    async with FailingKV(clock) as kv:
        kv.grant_errors = [Unavailable("no connection")]
        kv.txn_errors = [Unavailable("no connection"), OutcomeUnknown("no answer")]
        candidate = Candidate(kv, "first", clock)
        await clock.advance(5.9)
        assert leaders(candidate) == [False]
        await clock.advance(0.2)
        assert candidate.leadership is not None
        entry = await kv.get(KEY)
        assert entry is not None
        assert candidate.leadership.guard.revision == entry.create_revision
        await candidate.stop()


def test_times_that_cannot_work_are_refused(kv: MemoryKV) -> None:
    with pytest.raises(ValueError, match="renew_deadline_s"):
        Election(kv, KEY, "first", ttl_s=5, renew_deadline_s=10)
