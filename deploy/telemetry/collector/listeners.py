"""The collector's two ports, both under its certificate of the mesh: each handshake uses the one of that moment."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Iterator

import grpc
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import add_TraceServiceServicer_to_server
from starlette.applications import Starlette

from chassis.credentials import Credentials
from chassis.identity import Identity
from chassis.server import OPTIONS
from deploy.telemetry.collector.receiver import GrpcReceiver

_GRACE_S = 1.0


class GrpcListener:
    """OTLP/gRPC."""

    def __init__(self, receiver: GrpcReceiver, address: str, identity: Identity) -> None:
        self._server = grpc.aio.server(options=OPTIONS)
        add_TraceServiceServicer_to_server(receiver, self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_secure_port(address, identity.server_credentials(require_client=False))

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._server.start()
        try:
            await self._server.wait_for_termination()
        finally:
            await self._server.stop(_GRACE_S)


class HttpListener:
    """OTLP/HTTP, and queries."""

    def __init__(self, application: Starlette, address: str, identity: Identity) -> None:
        host, _, port = address.rpartition(":")
        self._identity = identity
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._take_certificate()
        identity.on_change(self._take_certificate)
        self._socket = socket.create_server((host, int(port)))
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            application,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=int(_GRACE_S),
            ssl_context_factory=lambda _config, _default: self._tls,
        )
        self._server = _Server(config)

    async def run(self) -> None:
        """Serve until cancelled."""
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        try:
            await asyncio.shield(serving)
        finally:
            self._server.should_exit = True
            await serving

    def _take_certificate(self) -> None:
        """OpenSSL takes another certificate into a context that serves; handshakes that have begun keep theirs."""
        with _as_file(self._identity.credentials) as path:
            self._tls.load_cert_chain(path)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the application's."""
        yield


@contextlib.contextmanager
def _as_file(credentials: Credentials) -> Iterator[str]:
    """Key and chain as the path of a file, which OpenSSL asks for; it is in memory only."""
    descriptor = os.memfd_create("collector")
    with os.fdopen(descriptor, "wb") as file:
        file.write(credentials.key_pem + b"\n" + credentials.chain_pem)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"
