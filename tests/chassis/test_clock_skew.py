"""Clocks that differ: tokens of an authority whose clock is off a little are good, by much they are not."""

from datetime import datetime, timedelta

import pytest

from chassis import tokens
from chassis.clock import SystemClock
from chassis.tokens import TokenVerifier
from lepton.errors import Unauthenticated
from tests.harness.pki import TokenSigner


class Off(SystemClock):
    """A clock that is wrong by so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._off = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self._off


def verifier(signer: TokenSigner, off_s: float) -> TokenVerifier:
    made = TokenVerifier(Off(off_s))
    made.replace(
        jwks=signer.jwks,
        issuer=signer.issuer,
        audience=signer.audience,
        revoked_tokens=frozenset(),
        revoked_sessions=frozenset(),
        revoked_principals={},
    )
    return made


LIFETIME_S = 300
SKEWS = [
    # How far the service is from the authority; the age of the token by the authority's clock.
    (-20, 0, True),  # the service lags: the token is of its future
    (-90, 0, False),
    (20, LIFETIME_S, True),  # the service is ahead: the token has just expired
    (90, LIFETIME_S, False),
    (0, 0, True),
]


def is_good(off_s: float, age_s: float) -> bool:
    signer = TokenSigner()
    now = SystemClock().now().timestamp()
    issued = int(now - age_s)
    token = signer.token("users/alice", iat=issued, nbf=issued, exp=issued + LIFETIME_S)
    try:
        verifier(signer, off_s).verify(token)
    except Unauthenticated:
        return False
    return True


@pytest.mark.parametrize(("off_s", "age_s", "expected"), SKEWS)
def test_twenty_seconds_are_borne_and_ninety_are_not(off_s: float, age_s: float, expected: bool) -> None:
    assert is_good(off_s, age_s) is expected


@pytest.mark.parametrize(("leeway_s", "wrong"), [(0, {-20, 20}), (3600, {-90, 90})])
def test_with_another_leeway_they_are_not(monkeypatch: pytest.MonkeyPatch, leeway_s: int, wrong: set[int]) -> None:
    """The controls: none at all, and an hour."""
    monkeypatch.setattr(tokens, "LEEWAY_S", leeway_s)
    assert {off_s for off_s, age_s, expected in SKEWS if is_good(off_s, age_s) is not expected} == wrong
