"""Who may open a connection to the mesh port, and what follows when certificates change."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from bench.echo import Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis.credentials import BACKDATED, Credentials
from chassis.identity import Identity
from chassis.peers import Peers
from lepton import channel, errors
from tests.harness.mesh import Mesh, serving
from tests.harness.pki import Authority

HELLO = EchoMessage(text="hello")


async def call_with(mesh: Mesh, credentials: Credentials) -> None:
    addresses = {"trainer": f"127.0.0.1:{mesh.server.ports['mesh']}"}
    async with Peers(addresses, Identity(credentials)) as peers:
        await EchoStub(peers.channel("trainer")).ForPeers(HELLO, timeout=5)


async def test_a_member_of_the_mesh_is_let_in(mesh: Mesh) -> None:
    await call_with(mesh, mesh.authority.issue("service/scheduler"))


async def test_no_certificate_is_refused(mesh: Mesh) -> None:
    address = f"127.0.0.1:{mesh.server.ports['mesh']}"
    async with channel.connect(address, trust_bundle_pem=mesh.authority.bundle_pem, server_name="trainer") as nobody:
        with pytest.raises(errors.Unavailable, match="UNREACHABLE"):
            await EchoStub(nobody).Anyone(HELLO)


@pytest.mark.parametrize(
    ("valid_from", "valid_for"),
    [(timedelta(hours=-2), timedelta(hours=-1)), (timedelta(hours=1), timedelta(hours=2))],
    ids=["expired", "not yet valid"],
)
async def test_a_certificate_out_of_its_time_is_refused(
    mesh: Mesh, valid_from: timedelta, valid_for: timedelta
) -> None:
    with pytest.raises(errors.Unavailable, match="UNREACHABLE"):
        await call_with(mesh, mesh.authority.issue("service/scheduler", valid_from=valid_from, valid_for=valid_for))


async def test_a_certificate_of_a_foreign_authority_is_refused(mesh: Mesh) -> None:
    foreign = Authority("foreign").issue("service/scheduler")
    trusting_us = Credentials(
        key_pem=foreign.key_pem, chain_pem=foreign.chain_pem, bundle_pem=mesh.authority.bundle_pem
    )
    with pytest.raises(errors.Unavailable, match="UNREACHABLE"):
        await call_with(mesh, trusting_us)


async def test_a_server_that_is_not_the_expected_service_is_refused(mesh: Mesh) -> None:
    address = f"127.0.0.1:{mesh.server.ports['mesh']}"
    async with Peers({"auth": address}, Identity(mesh.authority.issue("service/scheduler"))) as peers:
        with pytest.raises(errors.Unavailable, match="UNREACHABLE"):
            await EchoStub(peers.channel("auth")).Anyone(HELLO, timeout=5)


async def test_a_token_on_the_mesh_port_speaks_for_its_user(mesh: Mesh) -> None:
    async with mesh.peer("service/inference") as peers:
        headers = (("authorization", "Bearer " + mesh.signer.token("users/alice")),)
        request = EchoMessage(name="projects/acme/jobs/one", text="x")
        assert await EchoStub(peers.channel("trainer")).Echo(request, metadata=headers) == request


async def test_a_peers_spiffe_id_cannot_be_claimed_by_a_token(mesh: Mesh) -> None:
    async with mesh.client("spiffe://lepton.local/service/scheduler") as channel_:
        with pytest.raises(errors.Unauthenticated, match="TOKEN_INVALID"):
            await EchoStub(channel_).ForPeers(HELLO)


async def test_renewed_certificates_come_into_use_without_a_restart(mesh: Mesh) -> None:
    next_authority = Authority("next")
    both = mesh.authority.bundle_pem + next_authority.bundle_pem
    address = {"trainer": f"127.0.0.1:{mesh.server.ports['mesh']}"}
    caller = Identity(mesh.authority.issue("service/scheduler"))
    async with Peers(address, caller) as peers:
        stub = EchoStub(peers.channel("trainer"))
        assert await stub.ForPeers(HELLO) == HELLO
        for identity, path in ((mesh.identity, "service/trainer"), (caller, "service/scheduler")):
            issued = next_authority.issue(path)
            identity.replace(Credentials(key_pem=issued.key_pem, chain_pem=issued.chain_pem, bundle_pem=both))
        assert await stub.ForPeers(HELLO) == HELLO  # the same stub, over a new channel
        old_only = Identity(Authority("unknown").issue("service/scheduler"))
        async with Peers(address, old_only) as strangers:
            with pytest.raises(errors.Unavailable):
                await EchoStub(strangers.channel("trainer")).ForPeers(HELLO)


async def test_a_revoked_member_is_refused_and_its_stream_cut_until_it_is_admitted_anew() -> None:
    """Row 30 for machines: by the time of issue, so that the certificate of a new admission is good."""
    agent = "spiffe://lepton.local/agent/n1"

    class Endless(Echo):
        async def WatchPeers(self, request: Any, context: Any) -> Any:
            yield request
            await asyncio.Event().wait()

    async with serving((add_echo_to_server, Endless())) as mesh, mesh.peer("agent/n1") as peers:
        stub = EchoStub(peers.channel("trainer"))
        watching = stub.WatchPeers(HELLO)
        assert await watching.read() == HELLO
        assert await stub.ForPeers(HELLO) == HELLO
        mesh.change_policy(revoked_principals={agent: time.time() - BACKDATED.total_seconds()})
        # The test's authority dates certificates an hour back: they were issued before.
        with pytest.raises(errors.Unauthenticated, match="CERTIFICATE_REVOKED"):
            await watching.read()
        with pytest.raises(errors.Unauthenticated, match="CERTIFICATE_REVOKED"):
            await stub.ForPeers(HELLO)
        await call_with(mesh, mesh.authority.issue("agent/n2"))
        await call_with(mesh, mesh.authority.issue("agent/n1", valid_from=timedelta(0)))


async def test_a_model_servers_certificate_opens_nothing_in_the_mesh(mesh: Mesh) -> None:
    """Even were it good for a client: its path is none that a rule names."""
    with pytest.raises(errors.PermissionDenied, match="PEER_DENIED"):
        await call_with(mesh, mesh.authority.issue("replica/n1"))
