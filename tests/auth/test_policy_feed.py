"""The policy as other services receive it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chassis.access import Decision, PolicyReplica
from chassis.clock import SystemClock
from chassis.clock_skew import ClockSkew
from chassis.policy_feed import snapshot_of
from lepton.auth.v1 import session_service_pb2 as sessions
from lepton.errors import PermissionDenied, Unauthenticated
from lepton.internal.v1 import policy_feed_pb2 as pb
from services.auth.config import Lifetimes
from services.auth.roles import ROLES
from tests.auth.test_directory import project, user
from tests.harness.auth import RunningAuth, Stubs, running_auth
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV


class Late(SystemClock):
    """A clock that is behind by so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._behind = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() - self._behind


async def answer_in_time(feed: Any, clock: ManualClock) -> pb.WatchPolicyResponse:
    """The next answer, however late the server begins to wait for the clock."""
    waiting = asyncio.ensure_future(answer(feed))
    while not waiting.done():
        await clock.advance(5.1)
        await asyncio.wait({waiting}, timeout=0.05)
    return await waiting


@asynccontextmanager
async def watching(stubs: Stubs) -> AsyncIterator[Any]:
    call = stubs.policy.WatchPolicy(pb.WatchPolicyRequest())
    try:
        yield aiter(call)
    finally:
        call.cancel()


async def answer(feed: Any) -> pb.WatchPolicyResponse:
    async with asyncio.timeout(10):
        response: pb.WatchPolicyResponse = await anext(feed)
        return response


async def test_the_feed_begins_with_the_whole_policy(auth: RunningAuth) -> None:
    async with watching(await auth.peer(await auth.join("service/scheduler"))) as feed:
        first = await answer(feed)
    assert first.revision > 0
    assert {role.name: frozenset(role.permissions) for role in first.policy.roles} == dict(ROLES)
    assert [(each.role, each.scope, list(each.members)) for each in first.policy.bindings] == [
        ("roles/admin", "*", ["users/admin"])
    ]
    assert (first.policy.issuer, first.policy.audience) == ("https://lepton.test", "lepton")
    assert len(json.loads(first.policy.jwks_json)["keys"]) == 1


async def test_another_service_decides_by_what_it_receives(auth: RunningAuth) -> None:
    replica = PolicyReplica()
    session = await auth.sign_in()
    async with watching(await auth.peer(await auth.join("service/trainer"))) as feed:
        first = await answer(feed)
        replica.apply(snapshot_of(first.revision, first.policy))
        principal = replica.verify(session.access_token)
        assert replica.allowed(principal, "jobs.create", "projects/acme") is Decision.ALLOWED
        await project(auth, "acme")
        created = await answer(feed)
        assert created.revision > first.revision
        assert ("roles/admin", "projects/acme") in [(each.role, each.scope) for each in created.policy.bindings]
        await (await auth.client(session.access_token)).sessions.SignOut(sessions.SignOutRequest())
        revoked = await answer(feed)
        assert revoked.revision > created.revision
        replica.apply(snapshot_of(revoked.revision, revoked.policy))
        with pytest.raises(Unauthenticated, match="TOKEN_REVOKED"):
            replica.verify(session.access_token)


async def test_a_quiet_feed_sends_bookmarks(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    lifetimes = Lifetimes(certificate_s=86_400)
    async with (
        MemoryKV(clock) as kv,
        running_auth(kv, tmp_path, clock=clock, lifetimes=lifetimes) as auth,
        watching(await auth.peer(await auth.join("service/scheduler"))) as feed,
    ):
        first = await answer(feed)
        for _ in range(2):
            bookmark = await answer_in_time(feed, clock)
            assert bookmark.revision == first.revision
            assert not bookmark.HasField("policy")


@pytest.mark.parametrize("off_s", [0.0, 61.0])
async def test_the_feed_tells_whose_clock_differs(memory_auth: RunningAuth, off_s: float) -> None:
    """By auth's times; the control is a clock that is right."""
    skew = ClockSkew("auth", Late(off_s))
    async with watching(await memory_auth.peer(await memory_auth.join("service/trainer"))) as feed:
        for name in ("", "acme", "beta"):
            if name:
                await project(memory_auth, name)
            skew.note((await answer(feed)).send_time)
    assert skew.ahead_s == pytest.approx(off_s, abs=5)


async def test_only_services_read_the_policy(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    agent = await memory_auth.peer(await memory_auth.join("agent/n1"))
    for stubs in (await memory_auth.admin(), await user(memory_auth, "alice"), agent):
        with pytest.raises(PermissionDenied):
            async with watching(stubs) as feed:
                await answer(feed)
