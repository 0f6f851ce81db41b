"""Signing in, refreshing and signing out, over a real server with TLS."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OKPKey

from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1 import session_service_pb2 as pb
from lepton.auth.v1.principal_pb2 import ApiKey, User
from lepton.errors import LeptonError, NotFound, Unauthenticated
from services.auth import layout
from services.auth.config import Lifetimes
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until

pytestmark = pytest.mark.integration

PASSWORD = "correct horse battery"
# TLS goes by the machine's clock: the certificate must outlive what the test's clock is advanced by.
LONG = Lifetimes(certificate_s=400 * 86_400)


def password(user: str, text: str) -> pb.SignInRequest:
    return pb.SignInRequest(password=pb.PasswordCredential(user=user, password=text))


async def make_api_key(auth: RunningAuth, expires: datetime | None = None) -> str:
    admin = await auth.admin()
    await admin.directory.CreateProject(directory.CreateProjectRequest(project_id="acme"))
    account = await admin.directory.CreateServiceAccount(
        directory.CreateServiceAccountRequest(parent="projects/acme", service_account_id="robot")
    )
    wanted = ApiKey()
    if expires is not None:
        wanted.expire_time.FromDatetime(expires)
    key = await admin.directory.CreateApiKey(
        directory.CreateApiKeyRequest(parent=account.name, api_key_id="first", api_key=wanted)
    )
    assert key.secret.startswith(key.prefix)
    assert key.secret.startswith("lpk_")
    return str(key.secret)


async def refused(call: Any) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await call
    return caught.value.reason


async def test_a_user_signs_in_with_a_password(auth: RunningAuth) -> None:
    session = await auth.sign_in()
    assert session.principal == "users/admin"
    caller = await (await auth.client(session.access_token)).sessions.GetCaller(pb.GetCallerRequest())
    assert caller.principal == "users/admin"
    assert [(grant.role, grant.scope) for grant in caller.grants] == [("roles/admin", "*")]


async def test_a_service_account_signs_in_with_an_api_key(auth: RunningAuth) -> None:
    secret = await make_api_key(auth)
    session = await (await auth.client()).sessions.SignIn(pb.SignInRequest(api_key=secret))
    assert session.principal == "projects/acme/serviceAccounts/robot"
    assert session.refresh_token == ""
    caller = await (await auth.client(session.access_token)).sessions.GetCaller(pb.GetCallerRequest())
    assert caller.principal == session.principal


async def test_every_failed_sign_in_is_told_the_same(memory_auth: RunningAuth) -> None:
    secret = await make_api_key(memory_auth)
    admin, stubs = await memory_auth.admin(), await memory_auth.client()
    await admin.directory.CreateUser(
        directory.CreateUserRequest(user_id="gone", user=User(disabled=True), password=PASSWORD)
    )
    wrong = [
        password("users/admin", "not the password"),
        password("users/nobody", "not the password"),
        password("users/gone", PASSWORD),
        pb.SignInRequest(api_key="lpk_unknown"),
        pb.SignInRequest(api_key=secret[:-1] + ("A" if secret[-1] != "A" else "B")),
        pb.SignInRequest(api_key=memory_auth.password),
    ]
    answers = set()
    for request in wrong:
        with pytest.raises(Unauthenticated) as caught:
            await stubs.sessions.SignIn(request)
        answers.add((caught.value.reason, caught.value.message, tuple(caught.value.metadata.items())))
    assert {reason for reason, _, _ in answers} == {"SIGN_IN_FAILED"}
    assert len(answers) == 1


async def test_a_deleted_or_expired_api_key_no_longer_signs_in(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with MemoryKV(clock) as kv, running_auth(kv, tmp_path, clock=clock, lifetimes=LONG) as auth:
        secret = await make_api_key(auth, expires=clock.now() + timedelta(hours=1))
        stubs = await auth.client()
        await clock.advance(3500)
        await stubs.sessions.SignIn(pb.SignInRequest(api_key=secret))
        await clock.advance(200)
        assert await refused(stubs.sessions.SignIn(pb.SignInRequest(api_key=secret))) == "SIGN_IN_FAILED"
        admin = await auth.admin()
        parent = "projects/acme/serviceAccounts/robot"
        second = await admin.directory.CreateApiKey(directory.CreateApiKeyRequest(parent=parent, api_key_id="second"))
        await admin.directory.DeleteApiKey(directory.DeleteApiKeyRequest(name=second.name))
        assert await refused(stubs.sessions.SignIn(pb.SignInRequest(api_key=second.secret))) == "SIGN_IN_FAILED"
        # A key of the same name does not bring the old secret back to life.
        await admin.directory.CreateApiKey(directory.CreateApiKeyRequest(parent=parent, api_key_id="second"))
        assert await refused(stubs.sessions.SignIn(pb.SignInRequest(api_key=second.secret))) == "SIGN_IN_FAILED"


async def test_the_access_token_is_an_eddsa_jwt_as_the_gateway_expects_it(memory_auth: RunningAuth) -> None:
    session = await memory_auth.sign_in()
    key = OKPKey.import_key(memory_auth.app.access._snapshot.jwks["keys"][0])  # type: ignore[union-attr]
    token = jwt.decode(session.access_token, key, algorithms=["EdDSA"])
    assert token.header["alg"] == "EdDSA"
    assert token.header["kid"] == key.kid
    assert set(token.claims) == {"iss", "aud", "sub", "jti", "sid", "iat", "nbf", "exp", "projects"}
    assert token.claims["aud"] == "lepton"
    assert token.claims["projects"] == ["*"]
    assert token.claims["exp"] - token.claims["iat"] == 300
    jwks = await (await memory_auth.client()).sessions.GetJwks(pb.GetJwksRequest())
    assert '"d"' not in jwks.json
    assert token.header["kid"] in jwks.json


@pytest.mark.parametrize("token", ["garbage", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1c2Vycy9hZG1pbiJ9.", "x" * 4000])
async def test_a_garbage_token_is_refused(memory_auth: RunningAuth, token: str) -> None:
    stubs = await memory_auth.client(token)
    assert await refused(stubs.sessions.GetCaller(pb.GetCallerRequest())) == "TOKEN_INVALID"


async def test_no_token_is_refused(memory_auth: RunningAuth) -> None:
    stubs = await memory_auth.client()
    assert await refused(stubs.sessions.GetCaller(pb.GetCallerRequest())) == "TOKEN_MISSING"


async def test_an_access_token_works_for_five_minutes(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with MemoryKV(clock) as kv, running_auth(kv, tmp_path, clock=clock, lifetimes=LONG) as auth:
        stubs = await auth.admin()
        await clock.advance(299)
        await stubs.sessions.GetCaller(pb.GetCallerRequest())
        await clock.advance(60)
        assert await refused(stubs.sessions.GetCaller(pb.GetCallerRequest())) == "TOKEN_EXPIRED"


async def test_a_refresh_token_is_exchanged_once(auth: RunningAuth) -> None:
    stubs, first = await auth.client(), await auth.sign_in()
    second = await stubs.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=first.refresh_token))
    third = await stubs.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=second.refresh_token))
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert third.refresh_expire_time == first.refresh_expire_time
    await (await auth.client(third.access_token)).sessions.GetCaller(pb.GetCallerRequest())


async def test_reusing_a_refresh_token_ends_the_session(auth: RunningAuth) -> None:
    stubs, first = await auth.client(), await auth.sign_in()
    second = await stubs.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=first.refresh_token))
    for token in (first.refresh_token, second.refresh_token):
        again = stubs.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=token))
        assert await refused(again) == "REFRESH_TOKEN_REFUSED"
    signed_in = await auth.client(second.access_token)
    assert await refused(signed_in.sessions.GetCaller(pb.GetCallerRequest())) == "TOKEN_REVOKED"


async def test_only_one_of_two_concurrent_refreshes_wins(auth: RunningAuth) -> None:
    stubs, first = await auth.client(), await auth.sign_in()
    request = pb.RefreshSessionRequest(refresh_token=first.refresh_token)

    async def refresh() -> Any:
        return await stubs.sessions.RefreshSession(request)

    answers = await asyncio.gather(refresh(), refresh(), return_exceptions=True)
    assert sum(isinstance(answer, pb.Session) for answer in answers) <= 1
    assert all(isinstance(answer, pb.Session | LeptonError) for answer in answers)


@pytest.mark.parametrize("token", ["x", "lpr_admin.1.1.00", "lpr_", "....", "lpr_admin.aa.9.ü"])
async def test_a_made_up_refresh_token_is_refused(memory_auth: RunningAuth, token: str) -> None:
    stubs = await memory_auth.client()
    again = stubs.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=token))
    assert await refused(again) == "REFRESH_TOKEN_REFUSED"


async def test_a_session_ends_at_its_time_however_often_it_is_refreshed(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with MemoryKV(clock) as kv, running_auth(kv, tmp_path, clock=clock, lifetimes=LONG) as auth:
        stubs, session = await auth.client(), await auth.sign_in()
        for _ in range(6):
            await clock.advance(86_400)
            session = await stubs.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=session.refresh_token))
        await clock.advance(2 * 86_400)
        again = stubs.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=session.refresh_token))
        assert await refused(again) == "REFRESH_TOKEN_REFUSED"
        assert (await kv.list(f"{layout.ROOT}sessions/")).entries == ()


async def test_signing_out_ends_the_session_everywhere(auth: RunningAuth) -> None:
    session, other = await auth.sign_in(), await auth.sign_in()
    stubs = await auth.client(session.access_token)
    await stubs.sessions.SignOut(pb.SignOutRequest())
    assert await refused(stubs.sessions.GetCaller(pb.GetCallerRequest())) == "TOKEN_REVOKED"
    again = stubs.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=session.refresh_token))
    assert await refused(again) == "REFRESH_TOKEN_REFUSED"
    await (await auth.client(other.access_token)).sessions.GetCaller(pb.GetCallerRequest())


async def test_a_revocation_is_forgotten_once_no_token_can_need_it(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with MemoryKV(clock) as kv, running_auth(kv, tmp_path, clock=clock, lifetimes=LONG) as auth:
        await (await auth.admin()).sessions.SignOut(pb.SignOutRequest())
        assert len((await kv.list(layout.REVOKED_SESSIONS)).entries) == 1
        await clock.advance(400)
        await until(lambda: auth.app.access._snapshot.revoked_sessions == frozenset())  # type: ignore[union-attr]


async def test_setting_a_password_ends_the_sessions_of_the_user(auth: RunningAuth) -> None:
    admin = await auth.admin()
    await admin.directory.CreateUser(directory.CreateUserRequest(user_id="alice", password=PASSWORD))
    sessions = [await auth.sign_in("users/alice", PASSWORD) for _ in range(3)]
    await admin.directory.SetPassword(directory.SetPasswordRequest(name="users/alice", password=PASSWORD + "!"))
    for session in sessions:
        stubs = await auth.client(session.access_token)
        assert await refused(stubs.sessions.GetCaller(pb.GetCallerRequest())) == "TOKEN_REVOKED"
        again = stubs.sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=session.refresh_token))
        assert await refused(again) == "REFRESH_TOKEN_REFUSED"
    assert await refused((await auth.client()).sessions.SignIn(password("users/alice", PASSWORD))) == "SIGN_IN_FAILED"
    await auth.sign_in("users/alice", PASSWORD + "!")
    await admin.sessions.GetCaller(pb.GetCallerRequest())
    with pytest.raises(NotFound):
        await admin.directory.SetPassword(directory.SetPasswordRequest(name="users/nobody", password=PASSWORD))
