"""One trace through the data plane: the caller's span, Envoy's below it, Triton's below that, and nothing unsampled."""

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.agent.triton import ReplicaSettings
from services.agent.triton_server import Port
from services.inference.envoy import Endpoint, Route, Routes, Target
from tests.harness.serving import RunningGateway, gateway, replica, samples, served_model
from tests.harness.wait import until

pytestmark = pytest.mark.integration
MODEL = "demo.digits"
SAMPLED = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "01")
UNSAMPLED = ("1af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00")


@asynccontextmanager
async def collector(directory: Path) -> AsyncIterator[tuple[Endpoint, str]]:
    """The stack's own collector; its OTLP/gRPC endpoint and its HTTP address."""
    ports = [Port(), Port()]
    grpc_port, http_port = (port.number for port in ports)
    for port in ports:
        port.close()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.telemetry.collector", "--database", str(directory / "spans.sqlite")),
        *("--grpc", f"127.0.0.1:{grpc_port}", "--http", f"127.0.0.1:{http_port}"),
    )
    address = f"http://127.0.0.1:{http_port}"
    try:
        await until(lambda: get(f"{address}/healthz"), 20)
        yield Endpoint(host="127.0.0.1", port=grpc_port), address
    finally:
        process.terminate()
        await process.wait()


async def get(url: str) -> bytes | None:
    def read() -> bytes | None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            error.close()
            return None
        except OSError:
            return None

    return await asyncio.to_thread(read)


async def spans(address: str, trace: str) -> list[dict[str, Any]]:
    content = await get(f"{address}/api/traces/{trace}")
    found: list[dict[str, Any]] = json.loads(content)["spans"] if content else []
    return found


async def infer(front: RunningGateway, traceparent: tuple[str, str, str] | None) -> None:
    x, _ = samples(1)
    request = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    metadata = list(front.authority.bearer("demo").items())
    if traceparent:
        metadata.append(("traceparent", "-".join(("00", *traceparent))))
    credentials = grpc.ssl_channel_credentials(front.gateway.certificate.read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{front.port}", credentials) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await stub.ModelInfer(request, metadata=tuple(metadata), timeout=10)


async def test_a_sampled_call_is_one_trace_and_an_unsampled_one_is_none(tmp_path: Path) -> None:
    async with AsyncExitStack() as exits:
        otlp, address = await exits.enter_async_context(collector(tmp_path))
        settings = ReplicaSettings(trace_url=f"{address}/v1/traces", check_interval_s=0.2)
        one = await exits.enter_async_context(replica(tmp_path / "replica", [served_model(MODEL)], settings))
        front = await exits.enter_async_context(gateway(tmp_path / "envoy", collector=otlp, sampling=0.0))
        await one.ready()
        await front.route(
            Routes(routes=(Route(model=MODEL, targets=(Target(revision=1, endpoints=(one.endpoint,)),)),))
        )
        await infer(front, UNSAMPLED)
        await infer(front, None)
        await infer(front, SAMPLED)

        async def is_whole() -> bool:
            return {"gateway", "triton"} <= {span["service"] for span in await spans(address, SAMPLED[0])}

        await until(is_whole, 30)
        trace = await spans(address, SAMPLED[0])
        (ours,) = [span for span in trace if span["service"] == "gateway"]
        assert ours["parent_id"] == SAMPLED[1]
        assert ours["span_id"] in {span["parent_id"] for span in trace if span["service"] == "triton"}
        assert await spans(address, UNSAMPLED[0]) == []
        assert await traces(address, tmp_path) == {SAMPLED[0]}, "nor were the golden checks traced"


async def traces(address: str, directory: Path) -> set[str]:
    import sqlite3

    def read() -> set[str]:
        with sqlite3.connect(directory / "spans.sqlite") as database:
            return {row[0] for row in database.execute("SELECT DISTINCT trace_id FROM spans")}

    return await asyncio.to_thread(read)
