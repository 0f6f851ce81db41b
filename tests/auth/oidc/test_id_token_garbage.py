"""Whatever is sent as an ID token: it is refused, and nothing else happens."""

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.auth.oidc.id_token import TokenRefused, for_person, for_workload, groups, import_key, read, verify
from services.auth.oidc.settings import OidcProvider
from services.auth.oidc.trusts import matches_subject
from tests.auth.oidc.attacks import CURVE, EDWARDS
from tests.harness.oidc import Minter

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "iss", "aud", "exp", "iat", "nbf", "sub", "azp", "nonce"])
OBJECTS = st.dictionaries(NAMES, JSON, max_size=8)
PARTS = st.one_of(
    OBJECTS.map(lambda each: base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode()),
    st.text(alphabet="ABCabc012_-=+/. ", max_size=40),
    st.text(max_size=20),
)
PROVIDER = OidcProvider(issuer="https://login.test", client_id="lepton")
MANY = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@given(st.lists(PARTS, min_size=0, max_size=4).map(".".join))
@MANY
@example("..")
@example("\ud800.a.b")
def test_no_text_is_anything_but_a_token_or_refused(text: str) -> None:
    for key in (CURVE, EDWARDS):
        try:
            read(text)
            verify(text, key, PROVIDER, 0.0)
        except TokenRefused:
            continue
        pytest.fail("taken")


@given(OBJECTS)
@MANY
def test_no_signed_claims_do_more_than_be_refused(claims: dict[str, Any]) -> None:
    for check in (
        lambda: for_person(claims, PROVIDER, "n"),
        lambda: for_workload(claims, "a"),
        lambda: groups(claims, "aud"),
    ):
        with contextlib.suppress(TokenRefused):
            check()


@given(
    JSON.filter(lambda each: isinstance(each, dict))
    | st.fixed_dictionaries(
        {"kty": st.sampled_from(["RSA", "EC", "OKP", "oct"])},
        optional=dict.fromkeys(("n", "e", "crv", "x", "y", "kid", "alg", "use"), JSON),
    )
)
@MANY
def test_no_published_key_breaks_the_reading_of_the_others(document: dict[str, Any]) -> None:
    import_key(document)


@given(st.text(alphabet="ab:/*.", max_size=12), st.text(alphabet="ab:/.", max_size=12))
@MANY
def test_a_pattern_matches_by_the_letters_it_has(pattern: str, subject: str) -> None:
    if "*" not in pattern:
        assert matches_subject(pattern, subject) is (pattern == subject)
    elif matches_subject(pattern, subject):
        assert subject.startswith(pattern.partition("*")[0])


def test_what_is_signed_in_order_is_read(tmp_path: Path) -> None:
    minter = Minter(tmp_path)
    assert read(minter.token()).issuer == minter.issuer
    assert read(minter.token(header={"x5t": "abc", "typ": "JWT"})).kid == "one"  # as GitHub's and Microsoft's have it
