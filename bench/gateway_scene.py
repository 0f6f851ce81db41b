"""What `bench.gateway` calls: one Triton, the gateway before it with everything on, and an Envoy that only routes."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil

from bench import gateway_model
from bench.serving_load import Call
from services.agent.ports import Port
from services.agent.replica_settings import ReplicaSettings
from services.inference.envoy import Endpoint, Route, Routes, Target
from tests.harness.collector import collector_process
from tests.harness.serving import envoy_binary, gateway, replica
from tests.harness.wait import until

MODEL: Final = "bench.images"
_PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
_GRPC: Final = (("content-type", "application/grpc"), ("te", "trailers"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is up, and which processor time belongs to whom."""

    urls: dict[str, str]
    token: str
    processes: dict[str, tuple[psutil.Process, ...]]

    def call(self, way: str, body: bytes) -> Call:
        bearer = () if way == "direct" else (("authorization", f"Bearer {self.token}"),)
        return Call(url=self.urls[way] + _PATH, body=body, headers=(*_GRPC, *bearer))

    def cpu_s(self, who: str) -> float:
        """User and system time of a program with its children so far."""
        every = [each for root in self.processes[who] for each in (root, *root.children(recursive=True))]
        return sum(sum(each.cpu_times()[:2]) for each in every)


@asynccontextmanager
async def scene(kind: str) -> AsyncIterator[Scene]:
    """One Triton, the gateway before it with everything on, a bare Envoy, and a collector of traces."""
    async with AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="lepton-bench-")))
        spans = await exits.enter_async_context(collector_process(folder))
        collector = replace(Endpoint.parse(spans.grpc), name="127.0.0.1")
        settings = ReplicaSettings(check_interval_s=10)
        backend = await exits.enter_async_context(
            replica(folder / "replica", [gateway_model.served(MODEL, kind)], settings)
        )
        await backend.ready(deadline_s=90)
        front = await exits.enter_async_context(
            gateway(folder / "envoy", concurrency=2, collector=collector, collector_roots=spans.roots)
        )
        target = Target(
            revision=1, endpoints=(backend.endpoint,), lineage=(("lepton-model-version", "sha256:" + "0" * 64),)
        )
        await front.route(Routes(routes=(Route(model=MODEL, targets=(target,)),)))
        bare, address = await exits.enter_async_context(_bare_envoy(folder, backend.endpoint))
        yield Scene(
            urls={
                "direct": f"http://127.0.0.1:{backend.endpoint.port}",
                "gateway": f"https://localhost:{front.port}",
                "bare_envoy": f"http://127.0.0.1:{address.port}",
            },
            token=front.authority.token("bench", lifetime_s=36_000),
            processes={
                "triton": (psutil.Process(backend.replica.pid),),
                "gateway": (psutil.Process(front.process.pid),),
                "bare_envoy": (psutil.Process(bare.pid),),
            },
        )


def place(up: Scene, *, is_shared: bool) -> Sequence[int]:
    """The cores of the load. Triton has the same cores of its own in every way, as a replica on its node has.

    Of four cores and more the load has one, the proxies two, Triton the rest; of fewer Triton has the last, the load
    and the proxies share the others. With `is_shared` all share all: then what the proxy takes, Triton lacks.
    """
    every = sorted(os.sched_getaffinity(0))
    if is_shared or len(every) < 2:
        return every
    load, proxies, triton = (every[:-1],) * 2 + (every[-1:],)
    if len(every) >= 4:
        load, proxies, triton = every[:1], every[1:3], every[3:]
    for who, cores in {"gateway": proxies, "bare_envoy": proxies, "triton": triton}.items():
        for root in up.processes[who]:
            for each in (root, *root.children(recursive=True)):
                for thread in each.threads():
                    os.sched_setaffinity(thread.id, cores)
    return load


@asynccontextmanager
async def _bare_envoy(folder: Path, upstream: Endpoint) -> AsyncIterator[tuple[asyncio.subprocess.Process, Endpoint]]:
    """The least that Envoy can do: HTTP/2 in, one route, HTTP/2 out."""
    port = Port()
    address = Endpoint(host="127.0.0.1", port=port.number)
    port.close()
    config = folder / "bare.json"
    config.write_text(json.dumps(_bare_config(address, upstream)))
    process = await asyncio.create_subprocess_exec(
        *(str(envoy_binary()), "--config-path", str(config), "--disable-hot-restart", "--concurrency", "2"),
        *("--log-level", "off"),
    )
    try:
        await until(lambda: _is_open(address), 20)
        yield process, address
    finally:
        process.terminate()
        await process.wait()


async def _is_open(address: Endpoint) -> bool:
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    writer.close()
    return True


def _bare_config(address: Endpoint, upstream: Endpoint) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions."
    manager = {
        "@type": kind + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "triton", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": kind + "filters.http.router.v3.Router"}},
        ],
    }
    options = {
        "@type": kind + "upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"address": {"socket_address": {"address": upstream.host, "port_value": upstream.port}}}
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": address.host, "port_value": address.port}},
                    "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "triton",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
                    },
                    "load_assignment": {
                        "cluster_name": "triton",
                        "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
                    },
                }
            ],
        }
    }
