"""Ending access before its time: revocation by token, session and principal, disabled users, rotated keys."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chassis.access import PolicyReplica
from chassis.kv import Entry
from chassis.policy_feed import snapshot_of
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1 import session_service_pb2 as pb
from lepton.errors import FailedPrecondition, NotFound, PermissionDenied, Unauthenticated
from lepton.internal.v1 import policy_feed_pb2
from lepton.internal.v1.credentials_pb2 import SigningKeyRecord
from services.auth.config import Lifetimes
from services.auth.signing_keys import superfluous
from tests.auth.test_directory import PASSWORD, project, user
from tests.auth.test_sessions import make_api_key, password, refused
from tests.auth.token_attacks import unb64
from tests.harness.auth import RunningAuth, Stubs, running_auth
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV

pytestmark = pytest.mark.integration

LONG = Lifetimes(certificate_s=400 * 86_400)


def claims(token: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(unb64(token.split(".")[1]))
    return read


async def whoami(stubs: Stubs, token: str) -> Any:
    return await stubs.sessions.GetCaller(pb.GetCallerRequest(), metadata=(("authorization", f"Bearer {token}"),))


@pytest.mark.parametrize("by", ["token_id", "session", "principal"])
async def test_what_is_revoked_is_refused_and_nothing_else(auth: RunningAuth, by: str) -> None:
    admin, nobody = await auth.admin(), await auth.client()
    await admin.directory.CreateUser(directory.CreateUserRequest(user_id="alice", password=PASSWORD))
    hers, other = [await auth.sign_in("users/alice", PASSWORD) for _ in range(2)]
    named = claims(hers.access_token)
    target = {"token_id": named["jti"], "session": named["sid"], "principal": "users/alice"}[by]
    await whoami(nobody, hers.access_token)
    answer = await admin.sessions.RevokeAccess(pb.RevokeAccessRequest(**{by: target}))
    assert auth.app.access.revision >= answer.policy_revision > 0
    for spelling in (hers.access_token, hers.access_token + "=="):  # as text it may be another token, by its id never
        assert await refused(whoami(nobody, spelling)) in {"TOKEN_REVOKED", "TOKEN_INVALID"}
    refresh = nobody.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=hers.refresh_token))
    if by == "token_id":
        await whoami(nobody, (await refresh).access_token)
    else:
        assert await refused(refresh) == "REFRESH_TOKEN_REFUSED"
    if by == "principal":
        assert await refused(whoami(nobody, other.access_token)) == "TOKEN_REVOKED"
    else:
        await whoami(nobody, other.access_token)
    await admin.sessions.GetCaller(pb.GetCallerRequest())


async def test_another_service_hears_of_every_kind_of_revocation(memory_auth: RunningAuth) -> None:
    admin, replica = await memory_auth.admin(), PolicyReplica()
    await admin.directory.CreateUser(directory.CreateUserRequest(user_id="alice", password=PASSWORD))
    token = (await memory_auth.sign_in("users/alice", PASSWORD)).access_token
    peer = await memory_auth.peer(await memory_auth.join("service/trainer"))
    feed = peer.policy.WatchPolicy(policy_feed_pb2.WatchPolicyRequest())
    first = await anext(aiter(feed))
    replica.apply(snapshot_of(first.revision, first.policy))
    replica.verify(token)
    done = await admin.sessions.RevokeAccess(pb.RevokeAccessRequest(principal="users/alice"))
    async with asyncio.timeout(10):
        while replica.revision < done.policy_revision:
            answer = await anext(aiter(feed))
            if answer.HasField("policy"):
                replica.apply(snapshot_of(answer.revision, answer.policy))
    feed.cancel()
    with pytest.raises(Unauthenticated, match="TOKEN_REVOKED"):
        replica.verify(token)


async def test_a_service_account_signs_in_again_after_a_revocation(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with MemoryKV(clock) as kv, running_auth(kv, tmp_path, clock=clock, lifetimes=LONG) as auth:
        secret, nobody = await make_api_key(auth), await auth.client()
        first = await nobody.sessions.SignIn(pb.SignInRequest(api_key=secret))
        await (await auth.admin()).sessions.RevokeAccess(pb.RevokeAccessRequest(principal=first.principal))
        assert await refused(whoami(nobody, first.access_token)) == "TOKEN_REVOKED"
        await clock.advance(2)
        again = await nobody.sessions.SignIn(pb.SignInRequest(api_key=secret))
        assert (await whoami(nobody, again.access_token)).principal == first.principal


async def test_only_administrators_revoke_and_only_what_there_is(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    alice, admin = await user(memory_auth, "alice", "roles/admin", "acme"), await memory_auth.admin()
    with pytest.raises(PermissionDenied):
        await alice.sessions.RevokeAccess(pb.RevokeAccessRequest(principal="users/admin"))
    with pytest.raises(NotFound):
        await admin.sessions.RevokeAccess(pb.RevokeAccessRequest(principal="users/nobody"))


async def test_a_disabled_user_is_out_until_enabled(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with MemoryKV(clock) as kv, running_auth(kv, tmp_path, clock=clock, lifetimes=LONG) as auth:
        admin, nobody = await auth.admin(), await auth.client()
        await admin.directory.CreateUser(directory.CreateUserRequest(user_id="alice", password=PASSWORD))
        held = [await auth.sign_in("users/alice", PASSWORD) for _ in range(3)]
        disabled = await admin.directory.DisableUser(directory.DisableUserRequest(name="users/alice"))
        assert disabled.disabled
        for each in held:
            assert await refused(whoami(nobody, each.access_token)) == "TOKEN_REVOKED"
            again = nobody.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=each.refresh_token))
            assert await refused(again) == "REFRESH_TOKEN_REFUSED"
        assert await refused(nobody.sessions.SignIn(password("users/alice", PASSWORD))) == "SIGN_IN_FAILED"
        await admin.directory.EnableUser(directory.EnableUserRequest(name="users/alice"))
        await clock.advance(2)
        await whoami(nobody, (await auth.sign_in("users/alice", PASSWORD)).access_token)
        with pytest.raises(FailedPrecondition) as caught:
            await admin.directory.DisableUser(directory.DisableUserRequest(name="users/admin"))
        assert caught.value.reason == "OWN_ACCOUNT"


async def test_no_call_fails_while_the_signing_key_is_rotated(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with MemoryKV(clock) as kv, running_auth(kv, tmp_path, clock=clock, lifetimes=LONG) as auth:
        nobody, sessions, signers = await auth.client(), [await auth.sign_in()], []
        for step in range(40):  # a caller signs in every 20 s, and every token is used until it expires
            if step in (5, 20):
                await rotate(nobody, sessions[-1].access_token)
            await clock.advance(20)
            sessions.append(await auth.sign_in())
            signers.append(json.loads(unb64(sessions[-1].access_token.split(".")[0]))["kid"])
            for each in sessions[-14:]:  # the last 280 s of the 300 that a token lives
                await whoami(nobody, each.access_token)
        assert len(set(signers)) == 3
        listed = await keys(nobody, sessions[-1].access_token)
        assert [each.signs for each in listed].count(True) == 1
        assert listed[-1].signs
        assert listed[-1].kid == signers[-1]
        # The new key is published before it signs: a service that is a minute behind takes its first token.
        assert signers.index(listed[-1].kid) >= 20 + 2


async def test_a_key_is_forgotten_once_its_last_token_has_expired(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with MemoryKV(clock) as kv, running_auth(kv, tmp_path, clock=clock, lifetimes=LONG) as auth:
        nobody = await auth.client()
        token = (await auth.sign_in()).access_token
        (first,) = await keys(nobody, token)
        await clock.advance(61)
        await rotate(nobody, token)
        with pytest.raises(FailedPrecondition) as caught:
            await rotate(nobody, token)
        assert caught.value.reason == "ROTATION_UNDER_WAY"
        await clock.advance(100)
        await rotate(nobody, token)
        assert first.kid in [each.kid for each in await keys(nobody, token)]  # its tokens may still live
        await clock.advance(600)
        token = (await auth.sign_in()).access_token
        await rotate(nobody, token)
        assert first.kid not in [each.kid for each in await keys(nobody, token)]


async def test_a_key_that_leaked_is_distrusted_at_once(auth: RunningAuth) -> None:
    nobody, session = await auth.client(), await auth.sign_in()
    await nobody.sessions.RotateSigningKey(
        pb.RotateSigningKeyRequest(distrust_former=True),
        metadata=(("authorization", f"Bearer {session.access_token}"),),
    )
    assert await refused(whoami(nobody, session.access_token)) == "TOKEN_INVALID"
    again = await nobody.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=session.refresh_token))
    assert len(await keys(nobody, again.access_token)) == 1


def test_which_keys_are_superfluous() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)

    def entry(age_s: int) -> Entry:
        record = SigningKeyRecord(kid=str(age_s))
        record.create_time.FromDatetime(now - timedelta(seconds=age_s))
        return Entry(key=str(age_s), value=record.SerializeToString(), mod_revision=1, create_revision=1, version=1)

    lifetime = timedelta(seconds=300)  # and 60 s until it signs, 30 of leeway, 60 to be sure
    for ages, gone in (((), []), ((9999,), []), ((9999, 449), []), ((9999, 450), ["9999"]), ((9, 800, 900), ["900"])):
        assert [each.key for each in superfluous(map(entry, ages), now, lifetime)] == gone


async def rotate(stubs: Stubs, token: str) -> None:
    await stubs.sessions.RotateSigningKey(
        pb.RotateSigningKeyRequest(), metadata=(("authorization", f"Bearer {token}"),)
    )


async def keys(stubs: Stubs, token: str) -> list[Any]:
    answer = await stubs.sessions.ListSigningKeys(
        pb.ListSigningKeysRequest(), metadata=(("authorization", f"Bearer {token}"),)
    )
    return list(answer.keys)
