"""The trace collector for tests and benchmarks: its own listeners and store, under a mesh authority of the test's."""

import asyncio
import ssl
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from chassis.access import Binding, PolicyReplica, PolicySnapshot
from chassis.identity import Identity
from deploy.telemetry.collector.listeners import GrpcListener, HttpListener
from deploy.telemetry.collector.receiver import GrpcReceiver, http_application
from deploy.telemetry.collector.store import SpanStore
from tests.harness.mesh_ca import MeshCa
from tests.harness.pki import TokenSigner
from tests.harness.ports import free_ports
from tests.harness.wait import until

PATH = "service/collector"
ROLES = (
    Binding(principal="users/root", role="roles/viewer", scope="*"),
    Binding(principal="users/ada", role="roles/viewer", scope="projects/demo"),
    Binding(principal="users/bob", role="roles/viewer", scope="projects/other"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCollector:
    """Both ports, and what stands behind them."""

    grpc: str
    """`host:port`, and so is `http`."""
    http: str
    roots: Path
    """PEM file of the authorities to trust."""
    ca: MeshCa
    identity: Identity
    access: PolicyReplica
    tokens: TokenSigner
    store: SpanStore

    @property
    def traces_url(self) -> str:
        """Where OTLP over HTTP goes."""
        return f"https://{self.http}/v1/traces"

    def policy(self) -> PolicySnapshot:
        """Who may see which project."""
        return PolicySnapshot(
            revision=1,
            roles={"roles/viewer": frozenset({"jobs.get"})},
            bindings=ROLES,
            jwks=self.tokens.jwks,
            issuer=self.tokens.issuer,
            audience=self.tokens.audience,
        )

    def rotate(self) -> None:
        """The certificate is replaced; it is of the root that signs now."""
        self.identity.replace(self.ca.issue(PATH))


@asynccontextmanager
async def collector(folder: Path, *, knows_policy: bool = True) -> AsyncIterator[RunningCollector]:
    """A collector in this process; ends with the block."""
    ca = MeshCa()
    identity, access = ca.member(PATH), PolicyReplica()
    roots = folder / "collector-roots.pem"
    roots.write_bytes(ca.bundle_pem)
    with SpanStore(folder / "spans.sqlite") as store:
        grpc = GrpcListener(GrpcReceiver(store), "127.0.0.1:0", identity)
        http = HttpListener(http_application(store, access), "127.0.0.1:0", identity)
        running = RunningCollector(
            grpc=f"127.0.0.1:{grpc.port}",
            http=f"127.0.0.1:{http.port}",
            roots=roots,
            ca=ca,
            identity=identity,
            access=access,
            tokens=TokenSigner(),
            store=store,
        )
        if knows_policy:
            access.apply(running.policy())
        serving = [asyncio.create_task(each.run()) for each in (grpc, http)]
        try:
            yield running
        finally:
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorProcess:
    """A collector as a process of its own."""

    grpc: str
    """`host:port`, and so is `http`."""
    http: str
    folder: Path
    """With its state in `identity`, and what it prints in `collector.log`."""
    roots: Path


@asynccontextmanager
async def collector_process(
    folder: Path, *, join_token: str = "", roots: Path | None = None, auth: Mapping[str, int] | None = None
) -> AsyncIterator[CollectorProcess]:
    """A collector that joins the mesh at auth's ports; without those, it has its certificate already."""
    grpc, http, nobody = free_ports(3)
    auth = auth or {"client": nobody, "mesh": nobody}
    if roots is None:
        held, roots = MeshCa().issue(PATH), folder / "collector-roots.pem"
        held.save(folder / "identity")
        roots.write_bytes(held.bundle_pem)
    running = CollectorProcess(grpc=f"127.0.0.1:{grpc}", http=f"127.0.0.1:{http}", folder=folder, roots=roots)
    config = folder / "collector.toml"
    settings = {
        "database": str(folder / "spans.sqlite"),
        "grpc": running.grpc,
        "http": running.http,
        "peers": {"auth": f"127.0.0.1:{auth['mesh']}"},
        "identity": {
            "state_dir": str(folder / "identity"),
            "trust_bundle": str(roots),
            "auth_address": f"127.0.0.1:{auth['client']}",
            "join_token": join_token,
        },
    }
    config.write_text(tomli_w.dumps(settings))
    with (folder / "collector.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deploy.telemetry.collector", "--config", str(config)),
            stdout=output,
            stderr=output,
        )
        try:
            await until(lambda: asyncio.to_thread(_is_live, http, roots), 60)
            yield running
        finally:
            process.terminate()
            await process.wait()


def _is_live(port: int, roots: Path) -> bool:
    try:
        context = ssl.create_default_context(cafile=roots)
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/healthz", timeout=5, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
