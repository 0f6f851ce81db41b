"""Hostile callers of a server: too large, too deep, too slow, too many; a server without the limit falls for each."""

import asyncio
import json
import struct
import zlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.echo import METHODS, SERVICE, Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis import message_limits
from chassis.message_limits import BULK, BULK_BYTES, DEPTH, PUBLIC_BYTES, USUAL_BYTES, depth_check, most_bytes
from chassis.server import OPTIONS, Listener, Server
from deploy.retry_policy import RETRY
from lepton import errors
from lepton.channel import connect
from tests.chassis.raw_http2 import (
    ACK,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    PING,
    RST_STREAM,
    Connection,
    frame,
    trusting,
)
from tests.chassis.test_rates import Held, limits, methods, opened
from tests.harness.mesh import Mesh, serving
from tests.harness.protos import every_method
from tests.harness.wait import until

pytestmark = pytest.mark.integration

ACME = EchoMessage(name="projects/acme/jobs/one", text="x")


@asynccontextmanager
async def beside(
    mesh: Mesh, servicer: Any = None, address: str = "127.0.0.1:0", **options: Any
) -> AsyncIterator[Server]:
    """Another replica of the mesh's server, with other transport options."""
    credentials = mesh.identity.server_credentials(require_client=False)
    from chassis.stack import stack

    server = Server(
        mesh.name,
        [(add_echo_to_server, servicer or Echo())],
        listeners=[Listener(name="client", address=address, credentials=credentials)],
        middleware=stack(mesh.access, mesh.metrics, limits=limits()),
        options=[(f"grpc.{name}".replace("http2_", "http2."), value) for name, value in options.items()],
    )
    async with server:
        yield server


def stub_of(mesh: Mesh, server: Server, **extra: Any) -> Any:
    return connect(
        f"127.0.0.1:{server.ports['client']}",
        token=mesh.signer.token("users/alice"),
        trust_bundle_pem=mesh.authority.bundle_pem,
        server_name=mesh.name,
        **extra,
    )


# Too large and too deep: row 37.


def test_every_method_has_a_largest_request() -> None:
    sizes = {each.path: most_bytes(each) for each in methods()}
    assert set(sizes.values()) == {PUBLIC_BYTES, USUAL_BYTES, BULK_BYTES}
    assert dict(OPTIONS)["grpc.max_receive_message_length"] == BULK_BYTES
    public = {each.path for each in methods() if each.rule is not None and each.rule.public}
    assert {path for path, size in sizes.items() if size == PUBLIC_BYTES} == public
    assert set() == BULK - {f"{each.service}.{each.name}" for each in methods()}


def test_every_request_that_may_hold_itself_has_its_depth_checked() -> None:
    recursive = {each.input_type.full_name for each in every_method() if depth_check(each.input_type) is not None}
    assert "lepton.trainer.v1.CreateJobRequest" in recursive


@pytest.mark.parametrize(("method", "size"), [("Anyone", PUBLIC_BYTES), ("Echo", USUAL_BYTES), ("Watch", USUAL_BYTES)])
async def test_what_is_larger_than_its_method_takes_is_not_decoded(mesh: Mesh, method: str, size: int) -> None:
    async with mesh.client() as channel:
        call = getattr(EchoStub(channel), method)(EchoMessage(name="projects/acme", state="x" * size))
        with pytest.raises(errors.ResourceExhausted) as caught:
            await (call.read() if method == "Watch" else call)
    assert caught.value.reason == "REQUEST_TOO_LARGE"
    assert caught.value.metadata["limit"] == str(size)


async def test_without_the_limit_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same bytes are read, and refused for what they lack."""
    monkeypatch.setattr(message_limits, "PUBLIC_BYTES", BULK_BYTES)
    async with serving((add_echo_to_server, Echo())) as mesh, mesh.client() as channel:
        with pytest.raises(errors.InvalidArgument):
            await EchoStub(channel).Anyone(EchoMessage(state="x" * PUBLIC_BYTES))


async def test_five_megabytes_are_not_even_received(mesh: Mesh) -> None:
    async with mesh.client(extra_options=[("grpc.max_send_message_length", 8 << 20)]) as channel:
        with pytest.raises(errors.ResourceExhausted) as caught:
            await EchoStub(channel).Echo(EchoMessage(name="projects/acme", state="x" * (5 << 20)))
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


def nested(depth: int) -> EchoMessage:
    message = EchoMessage(text="x")
    for _ in range(depth - 1):
        outer = EchoMessage(text="x")
        outer.inner.CopyFrom(message)
        message = outer
    message.name = "projects/acme"
    return message


@pytest.mark.parametrize(
    ("depth", "reason"),
    [(DEPTH, ""), (DEPTH + 1, "REQUEST_TOO_DEEP"), (90, "REQUEST_TOO_DEEP"), (150, "MALFORMED_MESSAGE")],
)
async def test_what_is_too_deep_is_refused(mesh: Mesh, depth: int, reason: str) -> None:
    async with mesh.client() as channel:
        call = channel.unary_unary(f"/{SERVICE}/Echo")(nested(depth).SerializeToString())
        if not reason:
            await call
            return
        with pytest.raises(errors.InvalidArgument) as caught:
            await call
    assert caught.value.reason == reason


async def test_without_the_limit_of_depth_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_limits, "DEPTH", 100)
    async with serving((add_echo_to_server, Echo())) as mesh, mesh.client() as channel:
        await channel.unary_unary(f"/{SERVICE}/Echo")(nested(80).SerializeToString())


def bomb(size: int) -> bytes:
    """A gRPC frame, gzipped, of so many zeros; never unpacked here."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    return b"\1" + len(packed).to_bytes(4) + packed


def peak_bytes() -> int:
    """The most memory that this process has had resident since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def forget_peak() -> int:
    """What is resident now, and counts as the peak from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


@pytest.mark.parametrize(("limited", "status"), [(True, "12"), (False, "8")], ids=["ours", "control"])
async def test_a_gzip_bomb_is_not_opened(mesh: Mesh, tmp_path: Path, limited: bool, status: str) -> None:
    """200 MB in 200 KB: UNIMPLEMENTED. The control takes gzip, refuses the size, and has unpacked it all by then."""
    options = {} if limited else {"compression_enabled_algorithms_bitset": 7}
    body = bomb(200 << 20)
    async with beside(mesh, **options) as server, Connection.open(mesh, server.ports["client"], tmp_path) as raw:
        before = forget_peak()
        assert await raw.unary("Echo", body, ("grpc-encoding", "gzip")) == status
        grown = peak_bytes() - before
    assert (grown < 64 << 20) is limited, f"{grown >> 20} MiB"


# Too slow: row 38.


async def test_who_holds_a_connection_and_says_nothing_is_let_go(mesh: Mesh, tmp_path: Path) -> None:
    """Silent, in the middle of the handshake, after it; the control is a server with a minute's patience."""
    assert dict(OPTIONS)["grpc.server_handshake_timeout_ms"] <= 5_000
    async with AsyncExitStack() as exits:
        quick = await exits.enter_async_context(beside(mesh, server_handshake_timeout_ms=500))
        patient = await exits.enter_async_context(beside(mesh, server_handshake_timeout_ms=60_000))
        held = {server: [] for server in (quick, patient)}
        for server, readers in held.items():
            for at in range(60):
                if at % 3 == 2:
                    raw = Connection.open(mesh, server.ports["client"], tmp_path, greets=False)
                    readers.append((await exits.enter_async_context(raw)).reader)
                    continue
                reader, writer = await asyncio.open_connection("127.0.0.1", server.ports["client"])
                exits.callback(writer.close)
                if at % 3 == 1:
                    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01")
                readers.append(reader)
        async with stub_of(mesh, quick) as channel:
            await EchoStub(channel).Echo(ACME)  # while they are held
        async with asyncio.timeout(60):
            await asyncio.gather(*map(ended, held[quick]))
        assert not any(reader.at_eof() for reader in held[patient])


async def ended(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65536):
            pass
    except OSError:
        pass


async def test_an_idle_connection_is_closed(mesh: Mesh, tmp_path: Path) -> None:
    assert dict(OPTIONS)["grpc.max_connection_idle_ms"] <= 300_000
    async with (
        beside(mesh, max_connection_idle_ms=500) as server,
        Connection.open(mesh, server.ports["client"], tmp_path) as raw,
        asyncio.timeout(60),
    ):
        while (await raw.receive())[0] != GOAWAY:
            pass


async def test_connections_are_counted(mesh: Mesh) -> None:
    """More than a listener takes are closed at once; those that are there go on. The control takes them all."""
    assert dict(OPTIONS)["grpc.max_allowed_incoming_connections"] >= 1_000
    for most, is_limited in ((4, True), (1_000, False)):
        async with beside(mesh, max_allowed_incoming_connections=most) as server, stub_of(mesh, server) as channel:
            await EchoStub(channel).Echo(ACME)
            pairs = [await asyncio.open_connection("127.0.0.1", server.ports["client"]) for _ in range(20)]
            try:
                closed = [asyncio.ensure_future(ended(reader)) for reader, _ in pairs]
                if is_limited:
                    async with asyncio.timeout(4):  # long before the handshake's own time is over
                        while sum(each.done() for each in closed) < 16:
                            await asyncio.wait(closed, timeout=0.05)
                await EchoStub(channel).Echo(ACME)
                assert any(each.done() for each in closed) is is_limited
            finally:
                for each in closed:
                    each.cancel()
                for _, writer in pairs:
                    writer.close()


# Too many: row 39.


async def test_open_streams_do_not_hold_up_calls() -> None:
    async with serving((add_echo_to_server, Held()), limits=limits()) as mesh, AsyncExitStack() as exits:
        held = []
        for _ in range(3):  # one connection takes 256 streams
            channel = await exits.enter_async_context(
                mesh.client(extra_options=[("grpc.use_local_subchannel_pool", 1)])
            )
            held += await opened(mesh, channel, 100)
        async with mesh.client("users/root") as channel:
            for _ in range(20):
                await EchoStub(channel).Echo(ACME, timeout=30)
        assert len(held) == 300


def test_a_server_of_threads_is_held_up_by_them() -> None:
    """The control: sixteen streams on eight threads, and a call never begins."""
    import threading

    go, all_taken = threading.Event(), threading.Barrier(9)

    def watch(request: Any, context: Any) -> Any:
        yield request
        all_taken.wait(60)
        go.wait(60)

    server = grpc.server(ThreadPoolExecutor(8))
    handlers = {
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
        "Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.X", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            streams = [channel.unary_stream("/x.X/Watch")(b"x") for _ in range(16)]
            all_taken.wait(60)
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/x.X/Echo")(b"x", timeout=1)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert len(streams) == 16
    finally:
        go.set()
        server.stop(None)


@pytest.mark.parametrize("limited", [True, False])
async def test_who_floods_with_pings_is_sent_away(mesh: Mesh, tmp_path: Path, limited: bool) -> None:
    options = {} if limited else {"http2_max_ping_strikes": 0}
    async with beside(mesh, **options) as server:
        async with Connection.open(mesh, server.ports["client"], tmp_path) as raw, asyncio.timeout(60):
            raw.writer.write(frame(PING, 0, 0, b"01234567") * 50)
            answered, code = 0, None
            while code is None and answered < 500:
                kind, flags, _, payload = await raw.receive()
                if kind == PING and flags == ACK:
                    answered += 1
                    raw.writer.write(frame(PING, 0, 0, b"01234567"))
                if kind == GOAWAY:
                    code = struct.unpack(">I", payload[4:8])[0]
        assert (code == ENHANCE_YOUR_CALM) is limited
        async with stub_of(mesh, server) as channel:
            await EchoStub(channel).Echo(ACME)


@pytest.mark.parametrize("limited", [True, False])
async def test_metadata_beyond_the_limit_is_refused(mesh: Mesh, limited: bool) -> None:
    """Between 8 and 16 KiB gRPC decides by chance; 64 KiB are refused always."""
    options = {} if limited else {"max_metadata_size": 1 << 20, "absolute_max_metadata_size": 1 << 20}
    async with beside(mesh, **options) as server, stub_of(mesh, server) as channel:
        call = EchoStub(channel).Echo(ACME, metadata=[("x-flood", "x" * 65_000)])
        if limited:
            with pytest.raises(errors.ResourceExhausted):
                await call
        else:
            await call
        await EchoStub(channel).Echo(ACME)


async def test_rapid_resets_leave_the_server_answering(mesh: Mesh, tmp_path: Path) -> None:
    """CVE-2023-44487: streams that are opened and reset at once."""
    async with (
        beside(mesh) as server,
        stub_of(mesh, server) as channel,
        Connection.open(mesh, server.ports["client"], tmp_path) as raw,
    ):
        try:
            for _ in range(2_000):
                stream, opening = raw.headers("Watch")
                raw.writer.write(opening + frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
            await raw.writer.drain()
        except OSError:
            pass  # it was closed
        for _ in range(10):
            await EchoStub(channel).Echo(ACME, timeout=60)


async def test_what_is_no_http2_ends_its_connection(mesh: Mesh, tmp_path: Path) -> None:
    port = mesh.server.ports["client"]
    for raw in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\xff" * 4096):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting(mesh, tmp_path), server_hostname="localhost"
        )
        writer.write(raw)
        async with asyncio.timeout(60):
            await ended(reader)
        writer.close()
    async with mesh.client() as channel:
        await EchoStub(channel).Echo(ACME)


# Replaced one after the other: row 40.

_NAMES = [{"service": SERVICE, "method": name} for name in METHODS]


def config(*, retries: bool) -> str:
    method = {"name": _NAMES, "retryPolicy": {**RETRY, "maxAttempts": 5, "initialBackoff": "0.05s"}}
    balancing = [{"round_robin": {}}]
    return json.dumps({"methodConfig": [method] if retries else [], "loadBalancingConfig": balancing})


async def under_load(mesh: Mesh, servers: Sequence[Server], restart: Any, *, retries: bool) -> tuple[int, list[str]]:
    """How many calls were answered, and how the others ended, while `restart` ran."""
    address = "ipv4:" + ",".join(f"127.0.0.1:{server.ports['client']}" for server in servers)
    channel = connect(
        address, token=mesh.signer.token("users/alice"), trust_bundle_pem=mesh.authority.bundle_pem,
        server_name=mesh.name, extra_options=[("grpc.service_config", config(retries=retries))],
    )  # fmt: skip
    answered, failed, is_over = 0, [], asyncio.Event()

    async def call() -> None:
        nonlocal answered
        while not is_over.is_set():
            try:
                await EchoStub(channel).Echo(ACME, timeout=60)
            except errors.LeptonError as error:
                failed.append(f"{type(error).__name__}: {error.reason}")
            else:
                answered += 1

    async with channel:
        await EchoStub(channel).Echo(ACME)
        calling = [asyncio.create_task(call()) for _ in range(8)]
        await restart(lambda: answered)
        is_over.set()
        await asyncio.gather(*calling)
    return answered, failed


async def more(answered: Any, calls: int = 100) -> None:
    """Until so many more calls have been answered."""
    wanted = answered() + calls
    await until(lambda: answered() >= wanted, 60)


class Slow(Echo):
    """Takes a moment, so that calls are under way whenever a server stops."""

    async def Echo(self, request: Any, context: Any) -> Any:
        await asyncio.sleep(0.02)
        return request


async def test_no_call_fails_while_replicas_are_replaced(mesh: Mesh) -> None:
    async with AsyncExitStack() as exits:
        servers = [await exits.enter_async_context(beside(mesh, Slow())) for _ in range(2)]

        async def restart(answered: Any) -> None:
            for server in servers:
                await more(answered)
                await server.drain(30)
                address = f"127.0.0.1:{server.ports['client']}"
                await exits.enter_async_context(beside(mesh, Slow(), address))
                await more(answered)

        answered, failed = await under_load(mesh, servers, restart, retries=True)
    assert failed == []
    assert answered >= 400


async def test_calls_fail_where_a_replica_is_stopped_without_a_drain(mesh: Mesh) -> None:
    """The control."""
    async with AsyncExitStack() as exits:
        servers = [await exits.enter_async_context(beside(mesh, Slow())) for _ in range(2)]

        async def restart(answered: Any) -> None:
            await more(answered)
            await servers[0]._server.stop(None)
            await more(answered)

        _, failed = await under_load(mesh, servers, restart, retries=False)
    assert failed
