"""A replica that says who it is: a real server of the Open Inference Protocol without a model, for tests of routing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.inference.envoy import Endpoint


@dataclass
class NamedReplica(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every call with its name; a test holds it up, makes it fail, or asks what it got."""

    name: str
    port: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    """By model."""
    marked: Counter[str] = field(default_factory=Counter)
    """By what they say in the header `mark`."""
    metadata: dict[str, str] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    fails: grpc.StatusCode | None = None
    waiting: int = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(host="127.0.0.1", port=self.port)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.calls[request.model_name] += 1
        self.metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        self.marked[self.metadata.get("mark", "")] += 1
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.fails is not None:
            await context.abort(self.fails, f"{self.name} was told to fail")
        return service_pb2.ModelInferResponse(model_name=request.model_name, id=self.name)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            for _ in range(int(request.id or 1)):  # a decoupled model answers as often as it likes
                answer = service_pb2.ModelInferResponse(model_name=request.model_name, id=self.name)
                yield service_pb2.ModelStreamInferResponse(infer_response=answer)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerMetadataResponse(name=self.name)


@asynccontextmanager
async def named_replica(name: str) -> AsyncIterator[NamedReplica]:
    """A healthy replica on a free port; it lets calls through until a test clears its gate."""
    replica, health = NamedReplica(name), HealthServicer()
    replica.gate.set()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 80 << 20)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(replica, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    replica.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield replica
    finally:
        replica.gate.set()
        await server.stop(0)
