"""Clocks that differ: tokens of an authority that is off a little are good, by much they are not; it is told."""

from datetime import datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import REGISTRY

from chassis import tokens
from chassis.clock import SystemClock
from chassis.clock_skew import ClockSkew
from chassis.tokens import TokenVerifier
from lepton.errors import Unauthenticated
from tests.harness.clock import ManualClock
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


class Told:
    """A peer whose clock is off, and what it says of it."""

    def __init__(self, caplog: pytest.LogCaptureFixture, peer: str) -> None:
        self.clock, self._caplog = ManualClock(), caplog
        self.skew = ClockSkew(peer, self.clock)
        self._peer = peer

    async def hears(self, ahead_s: float, *, under_way_s: float = 0.0, times: int = 3) -> None:
        for _ in range(times):
            sent = Timestamp()
            sent.FromDatetime(self.clock.now() + timedelta(seconds=ahead_s))
            await self.clock.advance(under_way_s)
            self.skew.note(sent)

    def metric(self) -> float | None:
        return REGISTRY.get_sample_value("lepton_clock_skew_seconds", {"peer": self._peer})

    def warnings(self) -> list[dict[str, object]]:
        return [vars(each)["lepton_facts"] for each in self._caplog.records if each.getMessage() == "clocks differ"]


@pytest.mark.parametrize("ahead_s", [61.0, -61.0, 10.5])
async def test_a_clock_that_differs_is_measured_and_warned_of_once(
    caplog: pytest.LogCaptureFixture, ahead_s: float
) -> None:
    told = Told(caplog, "off")
    await told.hears(ahead_s, times=9)
    assert told.metric() == pytest.approx(ahead_s)
    (facts,) = told.warnings()
    assert (facts["peer"], facts["ahead_s"]) == ("off", pytest.approx(ahead_s))
    assert "set that one by NTP" in str(facts["advice"])
    await told.clock.advance(600)
    await told.hears(ahead_s)
    assert len(told.warnings()) == 2


@pytest.mark.parametrize("ahead_s", [0.0, 9.5, -9.5])
async def test_a_clock_that_is_off_a_little_is_measured_only(caplog: pytest.LogCaptureFixture, ahead_s: float) -> None:
    told = Told(caplog, "near")
    await told.hears(ahead_s)
    assert told.metric() == pytest.approx(ahead_s)
    assert told.warnings() == []


async def test_messages_that_were_long_under_way_are_no_skew(caplog: pytest.LogCaptureFixture) -> None:
    """A process that was stopped for a minute finds a minute's messages; the freshest of them count."""
    told = Told(caplog, "slow")
    await told.hears(0.0)
    for late_s in (60.0, 55.0, 50.0):
        sent = Timestamp()
        sent.FromDatetime(told.clock.now() - timedelta(seconds=late_s))
        told.skew.note(sent)
        assert told.skew.ahead_s is not None
        await told.hears(0.0, times=1)
        assert told.skew.ahead_s == pytest.approx(0.0)
    assert told.warnings() == []
    await told.hears(0.0, under_way_s=61.0)  # the control: when all are late, nothing tells it from a clock
    assert len(told.warnings()) == 1


async def test_a_peer_that_sends_no_times_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(caplog, "older")
    for _ in range(9):
        told.skew.note(Timestamp())
    assert told.skew.ahead_s is None
    assert told.metric() is None
