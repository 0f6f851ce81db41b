"""Whatever is wrong with an ID token: nobody is signed in, and all are told the same. The checks are what does it."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chassis.clock import SystemClock
from lepton.auth.v1 import session_service_pb2 as pb
from lepton.errors import LeptonError, Unauthenticated
from services.auth.oidc import id_token, providers
from services.auth.oidc.id_token import TokenRefused
from services.auth.oidc.providers import Providers
from tests.auth.oidc import attacks
from tests.auth.oidc.attacks import CURVE, EDWARDS, NONCE, WEAK, Forge
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.memory_kv import MemoryKV
from tests.harness.oidc import Minter

ALL = {**attacks.HEADERS, **attacks.SIGNATURES, **attacks.IN_FORCE, **attacks.FOR_WHOM, **attacks.ISSUERS}


@pytest_asyncio.fixture
async def auth(tmp_path: Path, minter: Minter) -> AsyncIterator[RunningAuth]:
    settings = minter.settings(create_users=True, other_audiences=("known",))
    async with MemoryKV() as kv, running_auth(kv, tmp_path, oidc={"corp": settings}) as running:
        yield running


async def sign_in(auth: RunningAuth, token: str, nonce: str = NONCE) -> pb.Session:
    credential = pb.IdTokenCredential(id_token=token, nonce=nonce)
    session: pb.Session = await (await auth.client()).sessions.SignIn(pb.SignInRequest(id_token=credential))
    return session


async def test_every_bad_token_is_refused_and_told_the_same(auth: RunningAuth, minter: Minter) -> None:
    answers = set()
    for name, forge in ALL.items():
        token = forge(minter)
        with pytest.raises(LeptonError) as caught:
            print(name, await sign_in(auth, token))
        answers.add((type(caught.value), caught.value.reason, caught.value.message, str(caught.value.metadata)))
    assert {reason for _, reason, _, _ in answers} == {"SIGN_IN_FAILED"}
    assert len(answers) == 1
    # The control: the same in order is taken, also with an audience beside us that is known.
    assert (await sign_in(auth, minter.token(nonce=NONCE))).principal.startswith("users/")
    known = minter.token(nonce=NONCE, aud=[attacks.CLIENT, "known"], azp=attacks.CLIENT, jti="2")
    assert (await sign_in(auth, known)).principal.startswith("users/")


async def test_a_token_is_good_for_one_sign_in(auth: RunningAuth, minter: Minter) -> None:
    token = minter.token(nonce=NONCE)
    await sign_in(auth, token)
    with pytest.raises(Unauthenticated) as caught:
        await sign_in(auth, token)
    assert caught.value.reason == "SIGN_IN_FAILED"


async def accepted(minter: Minter, forge: Forge) -> bool:
    """Whether the verification as it is now takes a token, as far as it is about the token."""
    settings = minter.settings(other_audiences=("known",))
    known = Providers({"corp": settings}, SystemClock())
    try:
        verified = await known.verified(forge(minter))
        id_token.for_person(verified.claims, settings, NONCE)
    except TokenRefused:
        return False
    return True


CONTROLS: dict[str, tuple[dict[str, Forge], str]] = {
    "signature": (attacks.SIGNATURES, "deserialize_compact"),
    "in force": (attacks.IN_FORCE, "_in_force"),
    "for whom": (attacks.FOR_WHOM, "for_person"),
}


@pytest.mark.parametrize("control", CONTROLS)
async def test_without_the_check_each_is_taken(control: str, minter: Minter, monkeypatch: pytest.MonkeyPatch) -> None:
    forged, check = CONTROLS[control]
    assert [name for name, forge in forged.items() if await accepted(minter, forge)] == []
    if check == "deserialize_compact":
        monkeypatch.setattr(id_token.jws, check, _unverified)
    else:
        monkeypatch.setattr(id_token, check, lambda *_: None)
    assert [name for name, forge in forged.items() if not await accepted(minter, forge)] == []


def _unverified(token: str, *_: Any, **__: Any) -> Any:
    class Parsed:
        payload = json.dumps(id_token._parts(token)[1]).encode()

    return Parsed


async def test_without_the_check_of_headers_a_token_of_another_kind_is_taken(
    minter: Minter, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {name: attacks.HEADERS[name] for name in ("jku", "x5u", "x5c", "an access token by its type")}
    monkeypatch.setattr(
        id_token, "read", lambda token: id_token.Unverified(issuer=minter.issuer, kid="one", algorithm="RS256")
    )
    monkeypatch.setattr(providers, "read", id_token.read)
    assert [name for name, forge in kinds.items() if not await accepted(minter, forge)] == []


@pytest.mark.parametrize("name", ["a slash more", "capitals", "another issuer"])
async def test_a_provider_that_is_found_by_something_like_its_issuer_would_be_fooled(
    name: str, minter: Minter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The issuer is compared twice: to find the provider, and in the signed claims."""
    forge = attacks.ISSUERS[name]
    real = id_token.read
    monkeypatch.setattr(
        providers,
        "read",
        lambda token: id_token.Unverified(issuer=minter.issuer, kid=real(token).kid, algorithm="RS256"),
    )
    assert not await accepted(minter, forge)
    monkeypatch.setattr(id_token, "_in_force", lambda *_: None)
    assert await accepted(minter, forge)


async def test_keys_are_taken_for_their_own_kind_only(minter: Minter) -> None:
    minter.publish(minter.key, CURVE, EDWARDS, WEAK)
    assert await accepted(minter, lambda each: each.token(nonce=NONCE, key=CURVE, header={"alg": "ES256"}))
    assert await accepted(minter, lambda each: each.token(nonce=NONCE, key=EDWARDS, header={"alg": "EdDSA"}))
    assert not await accepted(minter, lambda each: each.token(nonce=NONCE, key=WEAK))  # 1,024 bits
    named = {"RS256": CURVE.kid, "ES256": minter.key.kid, "EdDSA": CURVE.kid}
    signers = {"RS256": minter.key, "ES256": CURVE, "EdDSA": EDWARDS}
    for algorithm, kid in named.items():  # signed by one, and naming another of another kind
        forged = minter.token(nonce=NONCE, key=signers[algorithm], header={"alg": algorithm, "kid": kid})
        assert not await accepted(minter, lambda _, token=forged: token)  # type: ignore[misc]


async def test_a_clock_that_is_off_a_little_is_borne(minter: Minter) -> None:
    """As for access tokens: 20 s are, 90 s are not."""
    now = int(time.time())
    assert await accepted(minter, lambda each: each.token(nonce=NONCE, iat=now + 20))
    assert await accepted(minter, lambda each: each.token(nonce=NONCE, exp=now - 20))
    assert not await accepted(minter, lambda each: each.token(nonce=NONCE, iat=now + 90))
    assert not await accepted(minter, lambda each: each.token(nonce=NONCE, exp=now - 90))
