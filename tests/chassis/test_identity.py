"""How a member of the mesh gets its certificate, keeps it, and renews it."""

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chassis.credentials import Credentials
from chassis.identity import Identity, IdentityError
from lepton.errors import Unavailable
from tests.harness.clock import ManualClock
from tests.harness.pki import Authority


class LocalIssuer:
    """The auth service's answers, without the network."""

    def __init__(self, valid_for: timedelta = timedelta(hours=1)) -> None:
        self.authority = Authority()
        self.valid_for = valid_for
        self.issued: list[str] = []
        self.failures: list[Exception] = []
        self.renewed = asyncio.Event()

    async def issue(self, join_token: str, csr_pem: bytes) -> tuple[bytes, bytes]:
        self.issued.append(join_token)
        return self.authority.sign_request(csr_pem, "service/trainer", self.valid_for), self.authority.bundle_pem

    async def renew(self, csr_pem: bytes, current: Credentials) -> tuple[bytes, bytes]:
        if self.failures:
            raise self.failures.pop()
        self.renewed.set()
        return await self.issue(f"renewal of {current.spiffe_id}", csr_pem)


async def obtain(issuer: LocalIssuer, folder: Path, token: str = "join", clock: ManualClock | None = None) -> Identity:
    return await Identity.obtain(
        issuer=issuer, join_token=token, hosts=("localhost", "trainer"), folder=folder, clock=clock
    )


async def test_a_join_token_buys_an_identity_that_outlives_the_process(tmp_path: Path) -> None:
    issuer = LocalIssuer()
    first = await obtain(issuer, tmp_path)
    assert first.spiffe_id == "spiffe://lepton.local/service/trainer"
    assert stat.S_IMODE((tmp_path / "identity.pem").stat().st_mode) == 0o600
    again = await obtain(issuer, tmp_path, token="")
    assert again.credentials == first.credentials
    assert issuer.issued == ["join"]


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nxx"])
async def test_without_a_certificate_and_without_a_token_it_says_what_to_do(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "identity.pem").write_bytes(content)
    with pytest.raises(IdentityError, match="join-token"):
        await obtain(LocalIssuer(), tmp_path, token="")


async def test_an_expired_certificate_is_not_used_again(tmp_path: Path) -> None:
    issuer = LocalIssuer(valid_for=timedelta(seconds=-1))
    issuer.authority.issue("service/trainer", valid_for=timedelta(seconds=-1)).save(tmp_path)
    with pytest.raises(IdentityError, match="has expired"):
        await obtain(issuer, tmp_path, token="")


async def test_it_renews_at_two_thirds_of_its_life_and_keeps_trying(tmp_path: Path) -> None:
    issuer, clock = LocalIssuer(), ManualClock(datetime.now(UTC))
    identity = await obtain(issuer, tmp_path, clock=clock)
    first, changes = identity.credentials, []
    identity.on_change(lambda: changes.append(identity.credentials))
    issuer.failures = [Unavailable("UNREACHABLE")]
    renewing = asyncio.create_task(identity.renew_forever())
    await clock.advance(39 * 60)
    assert identity.credentials is first
    await clock.advance(2 * 60)
    assert issuer.issued == ["join", "renewal of spiffe://lepton.local/service/trainer"]
    assert changes == [identity.credentials]
    assert identity.credentials.key_pem != first.key_pem
    assert Credentials.load(tmp_path) == identity.credentials
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)
