"""Joining the mesh: one-time tokens, certificates that verify, renewals of one's own identity only."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from google.protobuf.duration_pb2 import Duration

from chassis.credentials import Credentials, signing_request
from lepton.auth.v1 import access_service_pb2 as access
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1 import identity_service_pb2 as pb
from lepton.auth.v1 import session_service_pb2 as sessions
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.errors import InvalidArgument, PermissionDenied, Unauthenticated, Unavailable
from services.auth import layout
from services.auth.config import Lifetimes
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until

pytestmark = pytest.mark.integration


def csr(*hosts: str) -> str:
    return signing_request(hosts or ("localhost", "127.0.0.1"))[1].decode()


async def refusal(call: Any) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await call
    return caught.value.reason


async def test_a_member_joins_with_a_certificate_that_verifies(auth: RunningAuth) -> None:
    credentials = await auth.join(
        "service/scheduler", ("localhost", "127.0.0.1", "scheduler", "10.1.2.3", "h1.example")
    )
    root = x509.load_pem_x509_certificate(auth.bundle_pem)
    verifier = PolicyBuilder().store(Store([root]))
    verifier.build_client_verifier().verify(credentials.leaf, [])
    verifier.build_server_verifier(x509.DNSName("scheduler")).verify(credentials.leaf, [])
    assert credentials.spiffe_id == "spiffe://lepton.local/service/scheduler"
    names = credentials.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "scheduler", "h1.example"}
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "10.1.2.3"}
    usage = credentials.leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert credentials.not_after - datetime.now(UTC) < timedelta(hours=1, seconds=1)
    assert root.not_valid_after_utc - datetime.now(UTC) > timedelta(days=3650)
    assert isinstance(root.public_key().curve, x509.base.ec.SECP256R1)  # type: ignore[union-attr, attr-defined]


async def test_the_trust_bundle_is_public(memory_auth: RunningAuth) -> None:
    bundle = await (await memory_auth.client()).identity.GetTrustBundle(pb.GetTrustBundleRequest())
    assert bundle.pem.encode() == memory_auth.bundle_pem


async def test_a_join_token_works_once(auth: RunningAuth) -> None:
    token, stubs = await auth.join_token("agent/n1"), await auth.client()
    request = pb.IssueCertificateRequest(join_token=token, csr_pem=csr())
    first = await stubs.identity.IssueCertificate(request)
    assert first.spiffe_id == "spiffe://lepton.local/agent/n1"
    assert await refusal(stubs.identity.IssueCertificate(request)) == "JOIN_TOKEN_REFUSED"


async def test_of_many_who_use_a_join_token_at_once_exactly_one_wins(auth: RunningAuth) -> None:
    token, stubs = await auth.join_token("agent/n1"), await auth.client()

    async def use() -> Any:
        return await stubs.identity.IssueCertificate(pb.IssueCertificateRequest(join_token=token, csr_pem=csr()))

    answers = await asyncio.gather(*(use() for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(answer, pb.Certificate) for answer in answers) == 1
    assert all(answer.reason == "JOIN_TOKEN_REFUSED" for answer in answers if isinstance(answer, Unauthenticated))
    assert sum(isinstance(answer, Unauthenticated) for answer in answers) == 5


async def test_a_join_token_is_not_stored_in_clear(memory_auth: RunningAuth) -> None:
    token = await memory_auth.join_token("agent/n1")
    stored = (await memory_auth.kv.list(layout.ROOT)).entries
    assert not [entry for entry in stored if token in entry.key or token.encode() in entry.value]


async def test_an_unused_join_token_expires(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    lifetimes = Lifetimes(certificate_s=86_400)
    async with MemoryKV(clock) as kv, running_auth(kv, tmp_path, clock=clock, lifetimes=lifetimes) as auth:
        token = await auth.join_token("agent/n1")
        await clock.advance(601)
        stubs = await auth.client()
        request = pb.IssueCertificateRequest(join_token=token, csr_pem=csr())
        assert await refusal(stubs.identity.IssueCertificate(request)) == "JOIN_TOKEN_REFUSED"
        assert (await kv.list(f"{layout.ROOT}joinTokens/")).entries == ()


async def test_a_bad_request_does_not_use_the_token_up(memory_auth: RunningAuth) -> None:
    token, stubs = await memory_auth.join_token("agent/n1"), await memory_auth.client()
    with pytest.raises(InvalidArgument) as caught:
        await stubs.identity.IssueCertificate(pb.IssueCertificateRequest(join_token=token, csr_pem="nonsense"))
    assert caught.value.reason == "CSR_INVALID"
    await stubs.identity.IssueCertificate(pb.IssueCertificateRequest(join_token=token, csr_pem=csr()))


@pytest.mark.parametrize("host", ["auth", "AUTH", "scheduler", "auth.example.com"])
async def test_nobody_gets_another_services_name(memory_auth: RunningAuth, host: str) -> None:
    for path in ("agent/n1", "service/trainer"):
        with pytest.raises(InvalidArgument) as caught:
            await memory_auth.join(path, (host,))
        assert caught.value.reason == "CSR_INVALID"


async def test_a_member_renews_its_own_identity_and_no_other(auth: RunningAuth) -> None:
    credentials = await auth.join("agent/n1")
    mesh = await auth.peer(credentials)
    renewed = await mesh.identity.RenewCertificate(pb.RenewCertificateRequest(csr_pem=csr("localhost")))
    assert renewed.spiffe_id == "spiffe://lepton.local/agent/n1"
    with pytest.raises(InvalidArgument):
        await mesh.identity.RenewCertificate(pb.RenewCertificateRequest(csr_pem=csr("scheduler")))


async def test_without_a_certificate_nothing_is_renewed(memory_auth: RunningAuth) -> None:
    request = pb.RenewCertificateRequest(csr_pem=csr())
    for stubs in (await memory_auth.client(), await memory_auth.admin()):
        with pytest.raises((Unauthenticated, PermissionDenied)):
            await stubs.identity.RenewCertificate(request)


async def test_a_certificate_of_another_authority_does_not_reach_the_mesh_port(
    memory_auth: RunningAuth, tmp_path: Path
) -> None:
    async with MemoryKV() as kv, running_auth(kv, tmp_path / "other") as other:
        foreign = await other.join("agent/n1")
    stranger = Credentials(key_pem=foreign.key_pem, chain_pem=foreign.chain_pem, bundle_pem=memory_auth.bundle_pem)
    mesh = await memory_auth.peer(stranger)
    with pytest.raises(Unavailable):
        await mesh.identity.RenewCertificate(pb.RenewCertificateRequest(csr_pem=csr()), timeout=5)


async def test_administrators_make_join_tokens_and_operators_only_for_agents(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    await admin.directory.CreateUser(directory.CreateUserRequest(user_id="olga", password="correct horse battery"))
    await admin.access.CreateRoleBinding(
        access.CreateRoleBindingRequest(
            role_binding_id="ops", role_binding=RoleBinding(role="roles/operator", members=["users/olga"])
        )
    )
    session = await memory_auth.sign_in("users/olga", "correct horse battery")
    operator = await memory_auth.client(session.access_token)
    made = await operator.identity.CreateJoinToken(
        pb.CreateJoinTokenRequest(spiffe_path="agent/n7", ttl=Duration(seconds=60))
    )
    issued = await operator.identity.IssueCertificate(pb.IssueCertificateRequest(join_token=made.token, csr_pem=csr()))
    assert issued.spiffe_id == "spiffe://lepton.local/agent/n7"
    service = pb.CreateJoinTokenRequest(spiffe_path="service/auth")
    with pytest.raises(PermissionDenied):
        await operator.identity.CreateJoinToken(service)
    assert (await admin.identity.CreateJoinToken(service)).token.startswith("lpj_")


async def test_auth_renews_its_own_serving_certificate(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with MemoryKV(clock) as kv, running_auth(kv, tmp_path, clock=clock) as auth:
        before = auth.app.identity.credentials.leaf.serial_number
        await clock.advance(3000)
        after = auth.app.identity.credentials
        assert after.leaf.serial_number != before
        assert after.not_after > clock.now() + timedelta(minutes=30)
        assert after.leaf.public_bytes(Encoding.PEM) == after.chain_pem


async def test_a_nodes_model_servers_get_certificates_that_prove_a_server_only(auth: RunningAuth) -> None:
    mesh = await auth.peer(await auth.join("agent/n1"))
    asked = csr("auth", "n2.replica.lepton.local")  # what a request asks for is not looked at
    issued = await mesh.identity.IssueServingCertificate(pb.IssueServingCertificateRequest(csr_pem=asked))
    assert issued.spiffe_id == "spiffe://lepton.local/replica/n1"
    leaf = x509.load_pem_x509_certificate(issued.certificate_chain_pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "n1.replica.lepton.local"}
    assert set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH
    }
    assert timedelta(days=6) < leaf.not_valid_after_utc - datetime.now(UTC) < timedelta(days=7, seconds=1)
    service = await auth.peer(await auth.join("service/trainer"))
    with pytest.raises(PermissionDenied):
        await service.identity.IssueServingCertificate(pb.IssueServingCertificateRequest(csr_pem=asked))


async def test_nobody_gets_the_name_of_a_nodes_model_servers(memory_auth: RunningAuth) -> None:
    for path in ("agent/n1", "agent/n2", "service/trainer"):
        with pytest.raises(InvalidArgument) as caught:
            await memory_auth.join(path, ("n1.replica.lepton.local",))
        assert caught.value.reason == "CSR_INVALID"


async def test_a_revoked_node_is_refused_at_once_and_not_renewed_until_it_is_admitted_anew(auth: RunningAuth) -> None:
    credentials = await auth.join("agent/n1")
    node, other = await auth.peer(credentials), await auth.peer(await auth.join("agent/n2"))
    request = pb.RenewCertificateRequest(csr_pem=csr("localhost"))
    await node.identity.RenewCertificate(request)
    revoke = sessions.RevokeAccessRequest(principal="spiffe://lepton.local/agent/n1")
    await (await auth.admin()).sessions.RevokeAccess(revoke)
    with pytest.raises(Unauthenticated) as caught:
        await node.identity.RenewCertificate(request)
    assert caught.value.reason == "CERTIFICATE_REVOKED"
    await other.identity.RenewCertificate(request)  # the control

    async def is_admitted() -> bool:
        """Certificates and revocations count whole seconds."""
        anew = await auth.peer(await auth.join("agent/n1"))
        try:
            await anew.identity.RenewCertificate(request)
        except Unauthenticated:
            return False
        return True

    await until(is_admitted, 10)


@pytest.mark.parametrize("principal", ["spiffe://elsewhere/agent/n1", "spiffe://lepton.local/agent/", "spiffe://x"])
async def test_what_is_no_member_cannot_be_revoked(memory_auth: RunningAuth, principal: str) -> None:
    with pytest.raises(InvalidArgument):
        await (await memory_auth.admin()).sessions.RevokeAccess(sessions.RevokeAccessRequest(principal=principal))
