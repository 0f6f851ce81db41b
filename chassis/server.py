"""The server of every service: its listeners, limits, health, reflection and admin port, and how it stops."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health_pb2_grpc

from chassis.adapter import Registrar, Router
from chassis.health import Health
from chassis.logs import logger
from chassis.metrics_page import MetricsPage
from chassis.middleware import Middleware
from chassis.reflection import add_reflection
from chassis.rpc_metrics import RpcMetrics
from lepton.errors import Unavailable

log = logger(__name__)

# `(add_JobServiceServicer_to_server, servicer)`
Registration = tuple[Callable[[Any, Any], None], Any]

OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    # gRPC unpacks a compressed message whole before it looks at its size: 4 MiB would become 4 GiB. Identity only.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.max_concurrent_streams", 256),
    # Of one listener; an agent holds one, a client a few. More are closed before their handshake.
    ("grpc.max_allowed_incoming_connections", 10_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping every 10 s; the spelling of this option with "recv" is ignored by grpc.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 5 * 60_000),
    ("grpc.so_reuseport", 0),
    ("grpc.enable_channelz", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An address and the TLS spoken on it; None is plaintext, for loopback only."""

    name: str
    address: str
    credentials: grpc.ServerCredentials | None = None


class Server:
    """Serves registrations through the middleware on all listeners."""

    def __init__(
        self,
        name: str,
        registrations: Sequence[Registration],
        *,
        listeners: Sequence[Listener],
        middleware: Sequence[Middleware],
        metrics: RpcMetrics | None = None,
        admin_address: str = "",
        metrics_address: str = "",
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self.name = name
        self.ports: dict[str, int] = {}
        self.health = Health()
        self._admin_address = admin_address
        self._admin: grpc.aio.Server | None = None
        self._metrics = MetricsPage(metrics_address, metrics) if metrics_address else None
        registrar = Registrar(middleware, f"{name}.lepton")
        for add, servicer in registrations:
            add(servicer, registrar)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, registrar)
        self.services: Sequence[str] = tuple(registrar.services)
        add_reflection(registrar, self.services)
        self.methods = tuple(registrar.methods)
        self._streams = registrar.streams
        self._server = grpc.aio.server(options=[*(dict(OPTIONS) | dict(options)).items()])
        self._server.add_generic_rpc_handlers((Router(registrar.handlers),))
        for listener in listeners:
            self.ports[listener.name] = self._bind(listener)

    async def start(self) -> None:
        """Serve, and say so."""
        await self._server.start()
        if self._admin_address:
            self._admin = _admin_server(self.health, self.services)
            self.ports["admin"] = self._admin.add_insecure_port(self._admin_address)
            await self._admin.start()
        if self._metrics is not None:
            self.ports["metrics"] = await self._metrics.start()
        self.health.set(self.services, is_serving=True)
        log.info("serving", **{f"{name}_port": port for name, port in self.ports.items()})

    async def drain(self, grace_s: float) -> None:
        """Say NOT_SERVING, end the streams so that their clients go elsewhere, finish the calls in flight."""
        self.health.stop()
        await asyncio.sleep(0)  # lets health's watchers hear it first
        stopping = asyncio.ensure_future(self._server.stop(grace_s))
        try:
            for call in list(self._streams):
                call.cut(Unavailable("DRAINING"))
            await asyncio.shield(stopping)
        finally:
            await stopping
            if self._admin is not None:
                await self._admin.stop(None)
            if self._metrics is not None:
                self._metrics.stop()
        log.info("drained")

    async def __aenter__(self) -> "Server":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain(0.5)

    def _bind(self, listener: Listener) -> int:
        if listener.credentials is None:
            return self._server.add_insecure_port(listener.address)
        return self._server.add_secure_port(listener.address, listener.credentials)


def _admin_server(health: Health, services: Sequence[str]) -> grpc.aio.Server:
    """Plaintext on loopback, for whoever is on the machine: channelz, health, reflection."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.enable_channelz", 1)])
    registrar = Registrar((), "admin.lepton")
    health_pb2_grpc.add_HealthServicer_to_server(health, registrar)
    channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), registrar)
    add_reflection(registrar, tuple(dict.fromkeys((*services, *registrar.services))))
    server.add_generic_rpc_handlers((Router(registrar.handlers),))
    return server
