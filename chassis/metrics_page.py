"""The page that Prometheus scrapes: the server's calls and every metric declared in chassis.telemetry."""

import asyncio
from collections.abc import Iterable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from chassis.rpc_metrics import RpcMetrics

_PATIENCE_S: Final = 5.0  # for a scraper to send its request


class MetricsPage:
    """Serves GET /metrics over plain HTTP on the event loop; for loopback only."""

    def __init__(self, address: str, calls: RpcMetrics | None) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._registry = CollectorRegistry()
        self._registry.register(_Declared())
        if calls is not None:
            self._registry.register(calls)
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Serve; the port."""
        self._server = await asyncio.start_server(self._answer, self._host, self._port)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                request = await reader.readuntil(b"\r\n\r\n")
                found = request.startswith((b"GET /metrics ", b"GET /metrics?"))
                body = generate_latest(self._registry) if found else b"see /metrics\n"
                status = "200 OK" if found else "404 Not Found"
                kind = CONTENT_TYPE_LATEST if found else "text/plain"
                head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # a scraper that went away is none of our business
        finally:
            writer.close()


class _Declared(Collector):
    def collect(self) -> Iterable[Metric]:
        """The process's own registry."""
        return REGISTRY.collect()

    def describe(self) -> Iterable[Metric]:
        """Nothing to check for duplicates."""
        return ()
