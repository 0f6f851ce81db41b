"""The servers that bench.rpc loads, each a process: bare grpc.aio, and the chassis with all its middleware."""

import asyncio
import json
import os
import sys
from contextlib import ExitStack
from typing import Any, Final

import grpc.aio
import uvloop

from bench.echo import Echo, add_echo_to_server
from chassis import logs, telemetry
from chassis.access import Binding, PolicyReplica, PolicySnapshot
from chassis.app import settle_heap
from chassis.identity import Identity
from chassis.middleware.rate_limit import RateLimits
from chassis.rates import Kind, Rate
from chassis.rpc_metrics import RpcMetrics
from chassis.server import Listener, Server
from chassis.stack import stack
from tests.harness.pki import Authority, TokenSigner

_PLENTY: Final = Rate(per_s=1e6, burst=1e6)
_COUNTED: Final = RateLimits(caller=_PLENTY, project=_PLENTY, methods=dict.fromkeys(Kind, _PLENTY))
"""Every limit is counted, and none is reached."""


async def serve(settings: dict[str, Any]) -> None:
    """Serve until stdin closes; the first line on stdout says where and how."""
    authority, signer = Authority(), TokenSigner()
    identity = Identity(authority.issue("service/trainer"))
    caller = authority.issue("service/scheduler")
    mutual = identity.server_credentials(require_client=True)
    start = _full if settings["middleware"] else _bare
    with ExitStack() as resources:
        if settings["otlp"]:
            # The caller decides about sampling, as the first service of a real trace does.
            resources.enter_context(telemetry.tracing("bench", otlp_endpoint=settings["otlp"], sample_ratio=0.0))
        server, port = await start(signer, mutual if settings["tls"] else None)
        hello = {
            "port": port,
            "token": signer.token("users/alice", jti="0" * 32),
            "key": caller.key_pem.decode(),
            "chain": caller.chain_pem.decode(),
            "bundle": caller.bundle_pem.decode(),
        }
        sys.stdout.write(json.dumps(hello) + "\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await server.stop(None) if isinstance(server, grpc.aio.Server) else await server.drain(0.1)


async def _bare(_: TokenSigner, credentials: Any) -> tuple[Any, int]:
    server = grpc.aio.server()
    add_echo_to_server(Echo(), server)
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    return server, port


async def _full(signer: TokenSigner, credentials: Any) -> tuple[Any, int]:
    access, metrics = PolicyReplica(), RpcMetrics()
    access.apply(
        PolicySnapshot(
            revision=1,
            roles={"roles/developer": frozenset({"echoes.*"})},
            bindings=(Binding(principal="users/alice", role="roles/developer", scope="projects/acme"),),
            jwks=signer.jwks,
            issuer=signer.issuer,
            audience=signer.audience,
        )
    )
    server = Server(
        "trainer",
        [(add_echo_to_server, Echo())],
        listeners=[Listener(name="client", address="127.0.0.1:0", credentials=credentials)],
        middleware=stack(access, metrics, limits=_COUNTED),
        metrics=metrics,
    )
    await server.start()
    settle_heap()  # as chassis.app does
    return server, server.ports["client"]


if __name__ == "__main__":
    logs.configure("bench", level="warning")
    chosen = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {chosen["core"]})
    uvloop.run(serve(chosen))
