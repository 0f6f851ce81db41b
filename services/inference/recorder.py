"""Keeps a sample of the requests that a gateway mirrors while a rollout is in progress, to send them to both revisions.

It stands in the route as a revision that nobody is sent to: Envoy copies a share of the unary calls to it and drops
what it answers. What it keeps lies in memory, for minutes, and goes nowhere but to replicas of the same deployment.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any, Final, Self

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2

from chassis.clock import Clock
from chassis.identity import Identity
from services.inference.envoy import Endpoint
from services.inference.gateway_port import add_gateway_port, is_from_gateway, own_name

_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_HEALTH: Final = "/grpc.health.v1.Health/Check"
KEPT: Final = 1024
"""Requests of one model; which ones is left to chance."""
_LARGEST_BYTES: Final = 1 << 20
"""Larger requests are not kept."""
_MODEL_BYTES: Final = 16 << 20
_KEPT_S: Final = 900.0


@dataclass(slots=True)
class Reservoir:
    """A uniform sample of a stream whose length nobody knows: Vitter's algorithm R, within a bound of bytes."""

    random: Random
    capacity: int = KEPT
    capacity_bytes: int = _MODEL_BYTES
    seen: int = 0
    _kept: list[tuple[float, bytes]] = field(default_factory=list)
    _bytes: int = 0

    def add(self, request: bytes, at_s: float) -> None:
        """One more of the stream; kept with the probability that makes every one as likely as any other."""
        self.seen += 1
        if len(self._kept) < self.capacity and self._bytes + len(request) <= self.capacity_bytes:
            self._kept.append((at_s, request))
            self._bytes += len(request)
            return
        place = self.random.randrange(self.seen)
        if place < len(self._kept) and self._bytes - len(self._kept[place][1]) + len(request) <= self.capacity_bytes:
            self._bytes += len(request) - len(self._kept[place][1])
            self._kept[place] = (at_s, request)

    def since(self, at_s: float) -> list[bytes]:
        """Those that are not older."""
        return [request for when, request in self._kept if when >= at_s]


class Recorder:
    """A gRPC server that takes every inference request and keeps some; `async with` runs it on a port of its own."""

    def __init__(
        self, clock: Clock, random: Random, *, host: str = "127.0.0.1", identity: Identity | None = None
    ) -> None:
        self._clock, self._random, self._host, self._identity = clock, random, host, identity
        self._models: defaultdict[str, Reservoir] = defaultdict(lambda: Reservoir(self._random))
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        server = grpc.aio.server(maximum_concurrent_rpcs=256)
        server.add_generic_rpc_handlers((_Handler(self._take, self._identity),))
        port = add_gateway_port(server, f"{self._host}:0", self._identity)
        self.endpoint = Endpoint(host=self._host, port=port, name=own_name(self._identity))
        await server.start()
        self._exits.push_async_callback(server.stop, 0.2)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    def requests(self, model: str, most: int, since_s: float = 0.0) -> list[bytes]:
        """So many of a model's requests, not older than `since_s` (of the clock's monotonic time), chosen by chance."""
        if model not in self._models:
            return []
        found = self._models[model].since(max(since_s, self._clock.monotonic() - _KEPT_S))
        return self._random.sample(found, min(most, len(found)))

    def forget(self, model: str) -> None:
        """Drops what was kept of a model."""
        self._models.pop(model, None)

    def _take(self, request: bytes) -> None:
        if len(request) > _LARGEST_BYTES:
            return
        try:
            parsed = service_pb2.ModelInferRequest.FromString(request)
        except DecodeError:
            return
        if "sequence_id" not in parsed.parameters:  # out of its sequence it means nothing
            self._models[parsed.model_name].add(request, self._clock.monotonic())


class _Handler(grpc.GenericRpcHandler):
    """Serves the two methods that a gateway calls; bytes in, bytes out."""

    def __init__(self, take: Callable[[bytes], None], identity: Identity | None) -> None:
        self._take, self._identity = take, identity

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method; None where there is none."""
        if handler_call_details.method == _INFER:
            return grpc.unary_unary_rpc_method_handler(self._infer)
        if handler_call_details.method == _HEALTH:
            return grpc.unary_unary_rpc_method_handler(self._check)
        return None

    async def _infer(self, request: bytes, context: Any) -> bytes:
        if not is_from_gateway(context, self._identity):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "only the gateway may send copies of calls")
        self._take(request)
        return b""

    async def _check(self, _request: bytes, _context: Any) -> bytes:
        healthy: bytes = health_pb2.HealthCheckResponse(
            status=health_pb2.HealthCheckResponse.SERVING
        ).SerializeToString()
        return healthy
