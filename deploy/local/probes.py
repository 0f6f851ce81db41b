"""How the processes of the stack are asked whether they are ready."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.etcd import TLS

Probe = Callable[[], Awaitable[bool]]
_TIMEOUT_S = 2.0


def serving(admin_address: str) -> Probe:
    """A service of ours: health SERVING on its admin port."""

    async def ask() -> bool:
        async with grpc.aio.insecure_channel(admin_address) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S
                )
            except grpc.aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return ask


def http_ok(address: str, path: str, tls: Callable[[], ssl.SSLContext] | None = None) -> Probe:
    """A server that answers a GET with 200; over TLS where its context is given."""

    async def ask() -> bool:
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, int(port), ssl=tls() if tls is not None else None)
                try:
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                    await writer.drain()
                    status = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return b" 200 " in status

    return ask


def mutual(tls: TLS) -> ssl.SSLContext:
    """The context of a client with a certificate; reads its files."""
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def exists(path: Path) -> Probe:
    """A process whose file has appeared."""

    async def ask() -> bool:
        return await asyncio.to_thread(path.exists)

    return ask


def every(*probes: Probe) -> Probe:
    """A process that passes all of these."""

    async def ask() -> bool:
        return all([await probe() for probe in probes])

    return ask
