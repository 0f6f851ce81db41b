"""The collector as a member of the mesh: it joins, renews, and follows the policy of a real auth service."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from chassis.credentials import Credentials
from lepton.auth.v1.identity_service_pb2 import RenewCertificateRequest
from lepton.client.traces import read_trace
from lepton.errors import LeptonError, PermissionDenied, Unauthenticated, Unavailable
from lepton.internal.v1.policy_feed_pb2 import WatchPolicyRequest
from services.auth.config import Lifetimes
from tests.deploy.test_collector_tls import certificate
from tests.harness.auth import running_auth
from tests.harness.collector import CollectorProcess, collector_process
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until

pytestmark = pytest.mark.integration

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_it_joins_renews_its_certificate_and_knows_whose_tokens_are_good(tmp_path: Path) -> None:
    # Certificates begin five minutes ago: of so short a life, two thirds are over at once.
    lifetimes = Lifetimes(certificate_s=120)
    folder = tmp_path / "collector"
    folder.mkdir()
    async with MemoryKV() as kv, running_auth(kv, tmp_path, lifetimes=lifetimes) as auth:
        token = await auth.join_token("service/collector")
        roots = Path(auth.config.identity.trust_bundle)
        async with collector_process(folder, join_token=token, roots=roots, auth=auth.ports()) as running:
            await until(lambda: "identity renewed" in (folder / "collector.log").read_text(), 30)
            await until(lambda: asyncio.to_thread(shows_what_it_keeps, running), 10)
            good = (await auth.sign_in()).access_token

            async def is_answered() -> bool:
                try:
                    return await read(running, good) == []
                except Unavailable:
                    return False  # it has no policy yet

            await until(is_answered, 30)
            with pytest.raises(Unauthenticated):
                await read(running, good[:-2])


async def read(running: CollectorProcess, token: str) -> list[object]:
    url = f"https://{running.http}"
    return list(await asyncio.to_thread(read_trace, url, TRACE, token=token, trust_bundle=running.roots))


def shows_what_it_keeps(running: CollectorProcess) -> bool:
    """Whether both ports show the certificate that it was given last."""
    kept = Credentials.load(running.folder / "identity")
    assert kept is not None
    newest = kept.leaf.public_bytes(Encoding.DER)
    return all(certificate(each, running.roots) == newest for each in (running.grpc, running.http))


@pytest.mark.parametrize(("path", "is_welcome"), [("service/collector", True), ("service/stranger", False)])
async def test_auth_knows_the_collector_and_no_stranger(tmp_path: Path, path: str, is_welcome: bool) -> None:
    async with MemoryKV() as kv, running_auth(kv, tmp_path) as auth:
        member = await auth.peer(await auth.join(path))
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: member.identity.RenewCertificate(RenewCertificateRequest(csr_pem="x"), timeout=5),
            lambda: anext(aiter(member.policy.WatchPolicy(WatchPolicyRequest(), timeout=5))),
        ]
        for call in calls:
            try:
                await call()
                refused = False
            except LeptonError as error:
                refused = isinstance(error, PermissionDenied)
            assert refused is not is_welcome
