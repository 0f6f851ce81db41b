"""One trace through the data plane: the caller's span, Envoy's below it, Triton's below that, and nothing unsampled."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.agent.replica_settings import ReplicaSettings
from services.inference.envoy import Endpoint, Route, Routes, Target
from tests.harness.collector import RunningCollector, collector
from tests.harness.mesh_ca import MeshCa
from tests.harness.proxy import Proxy
from tests.harness.serving import RunningGateway, gateway, replica, samples, served_model
from tests.harness.wait import until

pytestmark = pytest.mark.integration
MODEL = "demo.digits"
SAMPLED = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "01")
UNSAMPLED = ("1af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00")


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
    async with collector(tmp_path) as kept, traced(tmp_path, kept, kept.roots) as front:
        await infer(front, UNSAMPLED)
        await infer(front, None)
        await infer(front, SAMPLED)
        await until(lambda: {"gateway", "triton"} <= {span["service"] for span in kept.store.trace(SAMPLED[0])}, 30)
        trace = kept.store.trace(SAMPLED[0])
        (ours,) = [span for span in trace if span["service"] == "gateway"]
        assert ours["parent_id"] == SAMPLED[1]
        assert ours["span_id"] in {span["parent_id"] for span in trace if span["service"] == "triton"}
        assert kept.store.trace(UNSAMPLED[0]) == []
        assert await traces(tmp_path) == {SAMPLED[0]}, "nor were the golden checks traced"


@pytest.mark.slow
async def test_neither_envoy_nor_triton_sends_spans_to_whom_it_cannot_trust(tmp_path: Path) -> None:
    """The negative control is the test above."""
    foreign = tmp_path / "foreign.pem"
    foreign.write_bytes(MeshCa().bundle_pem)
    async with (
        collector(tmp_path) as kept,
        Counting(kept.http) as way,
        traced(tmp_path, replace(kept, http=way.endpoint), foreign) as front,
    ):
        await infer(front, SAMPLED)
        await until(lambda: way.ended, 30)  # Triton has tried

        async def envoy_has_tried() -> bool:
            return await front.admin.counter("cluster.collector.ssl.fail_verify_error") > 0

        await until(envoy_has_tried, 30)
        assert await traces(tmp_path) == set()


class Counting(Proxy):
    """Counts the connections that have come to their end."""

    ended = 0

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await super()._connect(reader, writer)
        self.ended += 1


@asynccontextmanager
async def traced(folder: Path, kept: RunningCollector, roots: Path) -> AsyncIterator[RunningGateway]:
    """A model behind the gateway; both send their spans over TLS, and trust these roots there."""
    settings = ReplicaSettings(trace_url=kept.traces_url, trace_roots=roots, check_interval_s=0.2)
    otlp = replace(Endpoint.parse(kept.grpc), name="127.0.0.1")
    async with (
        replica(folder / "replica", [served_model(MODEL)], settings) as one,
        gateway(folder / "envoy", collector=otlp, collector_roots=roots, sampling=0.0) as front,
    ):
        await one.ready()
        await front.route(
            Routes(routes=(Route(model=MODEL, targets=(Target(revision=1, endpoints=(one.endpoint,)),)),))
        )
        yield front


async def traces(directory: Path) -> set[str]:
    """The ids of all that were received."""

    def read() -> set[str]:
        with sqlite3.connect(directory / "spans.sqlite") as database:
            return {row[0] for row in database.execute("SELECT DISTINCT trace_id FROM spans")}

    return await asyncio.to_thread(read)
