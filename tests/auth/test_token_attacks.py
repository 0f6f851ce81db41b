"""Every known way to forge an access token, against the real service; each with a verifier that falls for it."""

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chassis.access import PolicyReplica, PolicySnapshot
from chassis.clock import SystemClock
from chassis.config import ConfigError
from lepton import reasons
from lepton.auth.v1 import session_service_pb2 as pb
from lepton.errors import LeptonError, Unauthenticated
from lepton.internal.v1.credentials_pb2 import SigningKeyRecord
from services.auth import layout
from services.auth.config import load
from services.auth.kek import Kek
from services.auth.keys import SigningKey
from services.auth.tokens import AccessTokens
from tests.auth.token_attacks import ATTACKS, GARBAGE, Attack, Careless, Forge, thumb, unb64
from tests.harness.auth import RunningAuth, auth_config
from tests.harness.pki import TokenSigner
from tests.harness.seeds import some_seed

TOLD = {"TOKEN_INVALID", "TOKEN_EXPIRED"}


async def forge_of(auth: RunningAuth) -> Forge:
    """With auth's own signing key, opened as auth opens it, and a token that it has just issued."""
    (stored,) = (await auth.kv.list(layout.SIGNING_KEYS)).entries
    record = SigningKeyRecord.FromString(stored.value)
    secret = Kek.load(auth.config.kek_file).open(record.private_key, layout.signing_key(record.kid))
    genuine = (await auth.sign_in()).access_token
    forge = Forge(
        private=Ed25519PrivateKey.from_private_bytes(secret),
        kid=record.kid,
        claims=json.loads(unb64(genuine.split(".")[1])),
        genuine=genuine,
    )
    assert thumb(forge.public) == forge.kid
    return forge


async def answer(auth: RunningAuth, token: str) -> Any:
    """Who the service takes the token for, or the error that it answers."""
    stubs = await auth.client()
    try:
        return await stubs.sessions.GetCaller(pb.GetCallerRequest(), metadata=(("authorization", f"Bearer {token}"),))
    except LeptonError as error:
        return error


async def test_every_forged_token_is_unauthenticated_and_told_nothing(memory_auth: RunningAuth) -> None:
    forge = await forge_of(memory_auth)
    tokens = {each.name: each.forge(forge) for each in ATTACKS} | {f"garbage {text[:20]}": text for text in GARBAGE}
    answers = {name: await answer(memory_auth, token) for name, token in tokens.items()}
    accepted = [name for name, told in answers.items() if not isinstance(told, Unauthenticated)]
    assert accepted == []
    for name, told in answers.items():
        assert told.code is grpc.StatusCode.UNAUTHENTICATED, name
        assert told.reason in TOLD, name
        assert (told.message, dict(told.metadata)) == (reasons.TEXTS[told.reason], {}), name
    assert [name for name, told in answers.items() if told.reason == "TOKEN_EXPIRED"] == ["expired", "expired long ago"]
    assert (await answer(memory_auth, forge.genuine)).principal == "users/admin"  # and none of it did any harm
    assert (await answer(memory_auth, forge.signed(jti="f" * 32))).principal == "users/admin"  # the forge can sign


async def test_every_other_service_refuses_them_alike(memory_auth: RunningAuth) -> None:
    forge, replica = await forge_of(memory_auth), PolicyReplica()
    replica.apply(memory_auth.app.access._snapshot)  # type: ignore[arg-type]
    assert replica.verify(forge.genuine).name == "users/admin"
    for token in [*(each.forge(forge) for each in ATTACKS), *GARBAGE, "é"]:
        for _ in range(2):  # a refusal is not remembered as anything else
            with pytest.raises(Unauthenticated):
                replica.verify(token)
    assert len(replica._tokens._known) == 1


async def test_a_verifier_without_the_check_falls_for_each(memory_auth: RunningAuth) -> None:
    """The negative control: each attack is one, and the check named is what stops it."""
    forge = await forge_of(memory_auth)
    assert Careless(forge).accepts(forge.genuine)
    refused_by: Counter[str] = Counter()
    for each in ATTACKS:
        token = each.forge(forge)
        assert not Careless(forge).accepts(token), each.name
        assert Careless(forge, each.without).accepts(token), f"{each.name} works on nobody: it shows nothing"
        refused_by.update(each.without)
        for spared in each.without:
            assert not Careless(forge, each.without - {spared}).accepts(token), (each.name, spared)
    checks = "size spelling headers typ algorithm kid signature claims types exp nbf iat iss aud sub jti"
    assert set(refused_by) == set(checks.split())


@pytest.mark.parametrize("missing", ["issuer", "audience"])
def test_auth_does_not_start_without_issuer_or_audience(tmp_path: Path, missing: str) -> None:
    config = auth_config(tmp_path)
    with pytest.raises(ConfigError, match=f"{missing} must not be empty"):
        replace(config, **{missing: ""})
    file = tmp_path / "auth.toml"
    file.write_text("".join(f'{name} = "x"\n' for name in ("issuer", "audience") if name != missing))
    with pytest.raises(ConfigError, match=missing):
        load(file)
    given = {"issuer": "i", "audience": "a", missing: ""}
    with pytest.raises(ValueError, match="must be set"):
        AccessTokens(_no_key, **given, lifetime=timedelta(seconds=300), clock=SystemClock())


def _no_key() -> SigningKey:
    raise LookupError


def test_attacks_have_names_of_their_own() -> None:
    assert len({each.name for each in ATTACKS}) == len(ATTACKS) >= 60
    assert all(isinstance(each, Attack) for each in ATTACKS)


def test_a_mutated_token_is_never_taken_and_breaks_nothing() -> None:
    mutate(5_000)


@pytest.mark.slow
def test_a_mutated_token_is_never_taken_in_many_tries() -> None:
    mutate(1_000_000)


def mutate(times: int) -> None:
    """Tokens that were good, changed at random places: whatever comes of it, the answer is Unauthenticated."""
    random, signer, replica = Random(some_seed()), TokenSigner(), PolicyReplica()
    replica.apply(PolicySnapshot(revision=1, jwks=signer.jwks, issuer=signer.issuer, audience=signer.audience))
    genuine = signer.token("users/ann")
    replica.verify(genuine)
    characters = 'ABCabc019-_.=+/ {}[]":,\\\x00\xff\n'
    for _ in range(times):
        text = list(genuine)
        for _ in range(random.choice((1, 1, 1, 2, 5, 40))):
            at, length = random.randrange(len(text)), random.choice((0, 1, 1, 1, 30))
            text[at : at + length] = random.choices(characters, k=random.choice((0, 1, 1, 1, 9)))
            text = text or ["."]
        token = "".join(text)
        if token != genuine:
            with pytest.raises(Unauthenticated):
                replica.verify(token)
