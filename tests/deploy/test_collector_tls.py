"""The collector's two ports speak TLS only, follow its certificate, and are known by those who send and who ask."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from chassis.collector_roots import collector_roots, keep_roots
from chassis.config import IdentitySettings, Telemetry
from lepton import tracing
from lepton.client.traces import read_trace
from lepton.errors import FailedPrecondition, Unauthenticated, Unavailable
from tests.harness.collector import RunningCollector, collector
from tests.harness.listeners import Listening, answers_plaintext
from tests.harness.mesh_ca import MeshCa
from tests.harness.wait import until

pytestmark = pytest.mark.integration


@pytest_asyncio.fixture
async def kept(tmp_path: Path) -> AsyncIterator[RunningCollector]:
    async with collector(tmp_path) as running:
        yield running


def endpoints(kept: RunningCollector) -> list[str]:
    """The address of spans over gRPC, and over HTTP."""
    return [f"https://{kept.grpc}", kept.traces_url]


def certificate(address: str, roots: Path) -> bytes | None:
    """What a server shows in a handshake, if it is of these roots."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=roots)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((host, int(port)), 10) as opened:
        try:
            with context.wrap_socket(opened, server_hostname=host) as secured:
                return secured.getpeercert(binary_form=True)
        except ssl.SSLCertVerificationError:
            return None


async def send(endpoint: str, roots: Path | None) -> str:
    """One span of a process that trusts these roots, and its trace; returns when it was sent, or given up."""

    def work() -> str:
        with tracing.tracing("sender", otlp_endpoint=endpoint, otlp_certificate=roots), tracing.span("work") as span:
            return span.traceparent.split("-")[1]

    return await asyncio.to_thread(work)


async def test_no_port_answers_in_plaintext(kept: RunningCollector) -> None:
    for address in (kept.grpc, kept.http):
        host, _, port = address.rpartition(":")
        listener = Listening(component="collector", listener="otlp", host=host, port=int(port))
        assert not await answers_plaintext(listener)
        assert await asyncio.to_thread(certificate, address, kept.roots), "the negative control"


async def test_spans_are_sent_to_whom_the_roots_vouch_for(kept: RunningCollector, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pem"
    foreign.write_bytes(MeshCa().bundle_pem)
    for endpoint in endpoints(kept):
        for roots in (foreign, tmp_path / "absent.pem"):
            assert kept.store.trace(await send(endpoint, roots)) == []
        (span,) = kept.store.trace(await send(endpoint, kept.roots))
        assert span["service"] == "sender", "the negative control"


async def test_the_certificate_is_replaced_while_it_serves(kept: RunningCollector, tmp_path: Path) -> None:
    """Another root signs: who trusts both goes on, and each handshake shows the certificate of its moment."""
    former = tmp_path / "former.pem"
    former.write_bytes(kept.ca.bundle_pem)
    kept.ca.publish_root()
    kept.roots.write_bytes(kept.ca.bundle_pem)
    shown = [await asyncio.to_thread(certificate, each, kept.roots) for each in (kept.grpc, kept.http)]
    assert None not in shown
    kept.ca.sign_with_newest()
    kept.rotate()
    for address, before in zip((kept.grpc, kept.http), shown, strict=True):
        assert await asyncio.to_thread(certificate, address, kept.roots) not in (before, None)
        assert await asyncio.to_thread(certificate, address, former) is None
    for endpoint in endpoints(kept):
        assert kept.store.trace(await send(endpoint, kept.roots))


async def test_who_sends_follows_the_roots_of_the_mesh(kept: RunningCollector, tmp_path: Path) -> None:
    """One process sends before the authority changes and after it, without being started anew."""
    telemetry = Telemetry(otlp_endpoint=f"https://{kept.grpc}")
    followed = collector_roots(telemetry, IdentitySettings(state_dir=str(tmp_path)))
    assert followed is not None
    member, former = kept.ca.member("service/trainer"), tmp_path / "former.pem"
    former.write_bytes(kept.ca.bundle_pem)
    keep_roots(followed, member)
    with tracing.tracing("trainer", otlp_endpoint=telemetry.otlp_endpoint, otlp_certificate=followed):
        await arrives(kept)
        kept.ca.publish_root()
        kept.ca.sign_with_newest()
        kept.ca.forget_former_roots()
        kept.rotate()
        member.replace(kept.ca.issue("service/trainer"))
        await arrives(kept)
    assert kept.store.trace(await send(telemetry.otlp_endpoint, former)) == [], "the negative control"


async def arrives(kept: RunningCollector) -> None:
    """A span that ends now is received."""
    with tracing.span("work") as span:
        trace_id = span.traceparent.split("-")[1]
    await until(lambda: kept.store.trace(trace_id), 30)


def test_roots_are_kept_where_spans_travel_over_tls_alone() -> None:
    identity = IdentitySettings(state_dir="/state")
    assert collector_roots(Telemetry(otlp_endpoint="http://127.0.0.1:4317"), identity) is None
    assert collector_roots(Telemetry(), identity) is None
    over_tls = Telemetry(otlp_endpoint="https://127.0.0.1:4317")
    assert collector_roots(over_tls, identity) == Path("/state/collector-roots.pem")
    assert collector_roots(replace(over_tls, otlp_certificate="/own.pem"), identity) == Path("/own.pem")


async def test_a_client_reads_a_trace_from_the_collector_alone(kept: RunningCollector) -> None:
    trace_id = await send(f"https://{kept.grpc}", kept.roots)
    token = kept.tokens.token("users/ada")

    async def read(url: str, sent: str = token) -> int:
        found = await asyncio.to_thread(read_trace, url, trace_id, token=sent, trust_bundle=kept.roots)
        return len(found)

    assert await read(f"https://{kept.http}") == 1
    with pytest.raises(Unauthenticated):
        await read(f"https://{kept.http}", "none")
    with pytest.raises(FailedPrecondition):
        await read(f"http://{kept.http}")
    # Another member of the mesh may have its address, and not its name.
    kept.identity.replace(kept.ca.issue("service/trainer"))
    with pytest.raises(Unavailable, match="collector"):
        await read(f"https://{kept.http}")
