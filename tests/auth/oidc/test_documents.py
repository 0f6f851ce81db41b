"""What a provider publishes: fetched when needed, not more often, and kept for a while when it is away."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc.jwk import RSAKey

from chassis.fetching import FetchError
from lepton.errors import Unavailable
from services.auth.oidc import documents
from services.auth.oidc.documents import APART_S, FRESH_S, KEPT_S, ProviderDocuments
from services.auth.oidc.id_token import TokenRefused, Unverified
from services.auth.oidc.providers import Providers
from services.auth.oidc.settings import OidcProvider
from tests.harness.clock import ManualClock
from tests.harness.oidc import RunningProvider

ISSUER = "https://login.test"


class Published:
    """A provider's documents, and how often they were fetched."""

    def __init__(self) -> None:
        self.keys = [RSAKey.generate_key(2048, {"kid": "one"})]
        self.about: dict[str, Any] = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys", "token_endpoint": f"{ISSUER}/t"}
        self.is_away = False
        self.fetched = 0

    async def get(self, url: str) -> bytes:
        self.fetched += 1
        if self.is_away:
            raise FetchError("away")
        if url.endswith("/keys"):
            return json.dumps({"keys": [key.as_dict(private=False) for key in self.keys]}).encode()
        return json.dumps(self.about).encode()


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def kept(published: Published, clock: ManualClock) -> ProviderDocuments:
    return ProviderDocuments(OidcProvider(issuer=ISSUER, client_id="lepton"), published, clock)


def named(kid: str) -> Unverified:
    return Unverified(issuer=ISSUER, kid=kid, algorithm="RS256")


async def test_keys_are_fetched_once_and_again_when_they_are_old(
    kept: ProviderDocuments, published: Published, clock: ManualClock
) -> None:
    for _ in range(10):
        assert (await kept.key(named("one"))).kid == "one"
    assert published.fetched == 2
    await clock.advance(FRESH_S)
    await kept.key(named("one"))
    assert published.fetched == 4


async def test_a_new_key_is_found_at_once(kept: ProviderDocuments, published: Published, clock: ManualClock) -> None:
    await kept.key(named("one"))
    published.keys = [RSAKey.generate_key(2048, {"kid": "two"})]
    await clock.advance(APART_S)
    assert (await kept.key(named("two"))).kid == "two"
    with pytest.raises(TokenRefused):  # the former is no longer published
        await kept.key(named("one"))


async def made_up(kept: ProviderDocuments, clock: ManualClock, published: Published) -> int:
    await kept.key(named("one"))
    before = published.fetched
    for number in range(200):
        await clock.advance(0.1)
        with pytest.raises(TokenRefused):
            await kept.key(named(f"made-up-{number}"))
    return published.fetched - before


async def test_made_up_key_ids_do_not_have_documents_fetched(
    kept: ProviderDocuments, published: Published, clock: ManualClock
) -> None:
    assert await made_up(kept, clock, published) <= 2


async def test_without_the_pause_each_made_up_id_has_them_fetched(
    kept: ProviderDocuments, published: Published, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "APART_S", 0.0)
    assert await made_up(kept, clock, published) == 400


async def test_keys_last_an_hour_while_the_provider_is_away_and_no_longer(
    kept: ProviderDocuments, published: Published, clock: ManualClock
) -> None:
    await kept.key(named("one"))
    published.is_away = True
    await clock.advance(KEPT_S - 1)
    assert (await kept.key(named("one"))).kid == "one"
    await clock.advance(1)
    with pytest.raises(Unavailable) as caught:
        await kept.key(named("one"))
    assert caught.value.reason == "PROVIDER_UNAVAILABLE"
    published.is_away = False
    await clock.advance(APART_S)
    assert (await kept.key(named("one"))).kid == "one"


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "https://attacker.test"}, {"issuer": ISSUER + "/"}, {"issuer": None}, {"jwks_uri": None},
        {"token_endpoint": "http://login.test/t"}, {"authorization_endpoint": "javascript:alert(1)"},
        {"device_authorization_endpoint": 7},
    ],
)  # fmt: skip
async def test_documents_that_contradict_the_settings_are_not_used(
    kept: ProviderDocuments, published: Published, wrong: dict[str, Any]
) -> None:
    published.about |= wrong
    with pytest.raises(Unavailable):
        await kept.key(named("one"))


async def test_a_token_without_a_key_id_is_held_against_the_only_key(
    kept: ProviderDocuments, published: Published
) -> None:
    assert (await kept.key(named(""))).kid == "one"


async def test_of_several_keys_none_is_guessed(kept: ProviderDocuments, published: Published) -> None:
    published.keys.append(RSAKey.generate_key(2048, {"kid": "two"}))
    with pytest.raises(TokenRefused):
        await kept.key(named(""))


async def test_of_two_keys_of_one_id_none_is_guessed(kept: ProviderDocuments, published: Published) -> None:
    published.keys.append(RSAKey.generate_key(2048, {"kid": "one"}))
    with pytest.raises(TokenRefused):
        await kept.key(named("one"))


@pytest.mark.integration
async def test_a_real_provider_rotates_its_key(provider: RunningProvider) -> None:
    clock = ManualClock(_now())
    known = Providers({"corp": provider.settings()}, clock)
    first = await provider.mint(sub="a")
    assert (await known.verified(first)).subject == "a"
    await provider.post("/rotate")
    second = await provider.mint(sub="b")
    with pytest.raises(TokenRefused):  # fetched a moment ago
        await known.verified(second)
    await clock.advance(APART_S)
    assert (await known.verified(second)).subject == "b"
    assert (await known.verified(first)).subject == "a"  # the former key is published still
    assert await provider.get("/fetched") == "2"


@pytest.mark.integration
async def test_a_real_provider_is_not_reached_on_a_private_address_unless_allowed(provider: RunningProvider) -> None:
    known = Providers({"corp": provider.settings(networks=())}, ManualClock(_now()))
    with pytest.raises(Unavailable):
        await known.verified(await provider.mint(sub="a"))
    assert await provider.get("/fetched") == "0"


@pytest.mark.integration
async def test_a_real_provider_of_a_foreign_authority_is_not_believed(provider: RunningProvider) -> None:
    known = Providers({"corp": provider.settings(ca_file="")}, ManualClock(_now()))
    with pytest.raises(Unavailable):
        await known.verified(await provider.mint(sub="a"))


def _now() -> datetime:
    return datetime.now(UTC)
