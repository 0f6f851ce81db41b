"""Refresh tokens, a second look: who stole one gains a moment at the most, whoever of the two comes first."""

import asyncio
from typing import Any

import pytest

from lepton.auth.v1 import session_service_pb2 as pb
from lepton.errors import LeptonError, Unauthenticated
from services.auth import layout
from services.auth.sessions import Sessions
from tests.harness.auth import RunningAuth


async def refresh(auth: RunningAuth, token: str) -> Any:
    return await (await auth.client()).sessions.RefreshSession(pb.RefreshSessionRequest(refresh_token=token))


async def stolen(auth: RunningAuth) -> tuple[list[str], bool]:
    """A thief uses a copied token, then its owner, then the thief: what those two heard; whether the thief is in."""
    copied = (await auth.sign_in()).refresh_token
    thief = await refresh(auth, copied)
    heard = []
    for token in (copied, thief.refresh_token):
        try:
            await refresh(auth, token)
            heard.append("refreshed")
        except LeptonError as error:
            heard.append(error.reason)
    try:
        await (await auth.client(thief.access_token)).sessions.GetCaller(pb.GetCallerRequest())
    except Unauthenticated:
        return heard, False
    return heard, True


async def test_a_thief_is_out_when_the_owner_comes(auth: RunningAuth) -> None:
    assert await stolen(auth) == (["REFRESH_TOKEN_REFUSED"] * 2, False)


async def test_without_the_generation_the_thief_stays(
    memory_auth: RunningAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what a token says of its generation is not held against the session's."""
    read = Sessions._read
    shown: dict[str, int] = {}

    def any_generation(self: Sessions, text: str) -> Any:
        token = read(self, text)
        object.__setattr__(token, "generation", shown.setdefault(token.session, 0) + 1)
        shown[token.session] += 1
        return token

    monkeypatch.setattr(Sessions, "_read", any_generation)
    heard, is_in = await stolen(memory_auth)
    assert heard == ["refreshed", "refreshed"]
    assert is_in


async def test_many_at_once_with_one_token_are_one_session_at_the_most(auth: RunningAuth) -> None:
    session = await auth.sign_in()
    answers = await asyncio.gather(*(refresh(auth, session.refresh_token) for _ in range(10)), return_exceptions=True)
    winners = [each for each in answers if isinstance(each, pb.Session)]
    assert len(winners) <= 1
    assert {each.reason for each in answers if isinstance(each, LeptonError)} <= {
        "REFRESH_TOKEN_REFUSED",
        "WRITE_CONFLICT",
    }


async def test_a_refresh_and_the_end_of_the_session_at_once_leave_it_ended(auth: RunningAuth) -> None:
    for _ in range(5):
        session = await auth.sign_in()
        stubs = await auth.client(session.access_token)
        await asyncio.gather(
            refresh(auth, session.refresh_token), stubs.sessions.SignOut(pb.SignOutRequest()), return_exceptions=True
        )
        with pytest.raises(LeptonError):
            await refresh(auth, session.refresh_token)
        with pytest.raises(Unauthenticated):
            await stubs.sessions.GetCaller(pb.GetCallerRequest())
    assert (await auth.kv.list(layout.SESSIONS)).entries == ()
