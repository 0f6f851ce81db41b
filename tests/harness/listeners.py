"""Every listening socket of a running stack, and what can be spoken on it."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local import control
from deploy.local.etcd_certificates import OPERATOR, EtcdCertificates
from deploy.local.home import Home


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Listening:
    """One socket: whose it is, and its name in `ports.json` or that of the process."""

    component: str
    listener: str
    host: str
    port: int


def listening(home: Home) -> list[Listening]:
    """All of them, once each; a socket that children share is its first process's."""
    said = control.state(home)
    assert said is not None
    names = {port: name for name, port in json.loads(home.ports_file.read_text()).items()}
    found: dict[tuple[str, int], Listening] = {}
    for component, about in said["components"].items():
        for process in _family(about["pid"]):
            for connection in _sockets(process):
                host, port = connection.laddr
                host = host.removeprefix("::ffff:")  # gRPC listens on IPv4 addresses by IPv6 sockets
                name = names.get(port, "").removeprefix(f"{component}-") or process.name().rstrip("0123456789.")
                each = Listening(component=component, listener=name, host=host, port=port)
                found.setdefault((host, port), each)
    return sorted(found.values())


def shakes_hands(home: Home, socket: Listening) -> bool:
    """Whether `openssl s_client` gets through, with a member's certificate where one is asked for."""
    command = ["openssl", "s_client", "-connect", f"{socket.host}:{socket.port}", "-brief", "-verify_return_error"]
    made = subprocess.run(
        [*command, "-alpn", "h2", *_identity(home, socket)],
        input=b"",
        capture_output=True,
        timeout=20,
        check=False,
    )
    told = made.stderr.decode(errors="replace")
    return "CONNECTION ESTABLISHED" in told and "alert" not in told


async def answers_plaintext(socket: Listening) -> bool:
    """Whether anything but a refusal comes back to a gRPC call, or an HTTP request, without TLS."""
    async with grpc.aio.insecure_channel(f"{socket.host}:{socket.port}") as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return True  # it understood, and refused
        else:
            return True
    return await _answers_http(socket)


async def _answers_http(socket: Listening) -> bool:
    try:
        async with asyncio.timeout(3):
            reader, writer = await asyncio.open_connection(socket.host, socket.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = await reader.read(64)
            writer.close()
    except (OSError, TimeoutError):
        return False
    # A server of TLS may say in HTTP that it takes TLS only, as Go's does.
    return answer.startswith(b"HTTP/") and not answer.startswith(b"HTTP/1.0 400")


def _identity(home: Home, socket: Listening) -> list[str]:
    """The certificate to show, and the authority to trust."""
    if socket.component == "etcd":
        made = EtcdCertificates(home.etcd_certificates)
        return [
            *("-CAfile", str(made.ca), "-cert", str(made.certificate(OPERATOR)), "-key", str(made.key(OPERATOR))),
        ]
    tls = home.root / "gateway" / "tls"
    shown = ["-cert", str(tls / "certificate.pem"), "-key", str(tls / "key.pem")]
    return ["-CAfile", str(home.trust_bundle), *shown]


def _family(pid: int) -> Iterator[psutil.Process]:
    leader = psutil.Process(pid)
    yield leader
    yield from leader.children(recursive=True)


def _sockets(process: psutil.Process) -> list[Any]:
    try:
        found = process.net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return []
    return [each for each in found if each.status == psutil.CONN_LISTEN and Path(f"/proc/{process.pid}").exists()]
