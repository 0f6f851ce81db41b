"""Holds the calls of deployments that have no replica: wakes them, and passes the calls on once a replica is proven.

It speaks any gRPC method, as bytes. Envoy sends it what finds no healthy replica, after the token check; it listens on
loopback, and takes no call that does not carry the key which only that gateway knows.
"""

import asyncio
import hmac
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Protocol, Self

import grpc
from grpc import aio

from chassis.clock import Clock, wait_for_event
from chassis.identity import Identity
from chassis.logs import logger
from chassis.replica_channels import ReplicaChannel
from lepton.errors import DETAILS_KEY, DeadlineExceeded, InvalidArgument, LeptonError, Unauthenticated, Unavailable
from lepton.inference.v1.deployment_pb2 import Deployment
from services.inference.autoscaling.spec import Spec, spec_of
from services.inference.envoy import Endpoint, Routes
from services.inference.envoy.routes import of_cluster
from services.inference.envoy.upstream import ENGINE, HELD
from services.inference.gateway_port import add_gateway_port, is_from_gateway, own_name
from services.inference.held_calls import Held, HeldCalls
from services.inference.open_streams import PROCESS, OpenStreams

log = logger(__name__)
DOMAIN: Final = "inference.lepton"
STREAM: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
_MESSAGE_BYTES: Final = 80 << 20
_ATTEMPTS: Final = 3
_REMARK_S: Final = 2.0
"""A deployment that does not wake is marked again: the mark goes when it is acted on, and it may be asleep since."""
_RETRY_S: Final = 1.0
_LOOK_S: Final = 1.0
"""So often it is looked whether whoever called is still there."""
_OWN: Final = frozenset({HELD, "user-agent", "te", "content-type", "host", "authorization"})
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.initial_reconnect_backoff_ms", 50),
)
_Metadata = tuple[tuple[str, Any], ...]


class Waker(Protocol):
    """Who can see to it that a deployment gets replicas."""

    async def wake(self, deployment: str) -> bool:
        """Marks that it was called; may be repeated. False = not now: try again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call: the method, whom it is for, and what is passed on of its metadata."""

    method: str
    model: str
    revision: int
    metadata: _Metadata
    first: bytes = field(repr=False)


class Holder:
    """Listens while the context is open; `use` tells it of every change of routes and deployments."""

    def __init__(
        self,
        waker: Waker,
        clock: Clock,
        *,
        address: str,
        key: str,
        held_bytes: int,
        identity: Identity | None = None,
        streams: OpenStreams | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        if not _is_loopback(host) or not port.isdigit():
            problem = f"must be a loopback address and a port, as 127.0.0.1:0, not {address!r}"
            raise InvalidArgument("INVALID_FIELD", fields={"autoscaling.holder": problem})
        self._waker, self._clock, self._key, self._identity = waker, clock, key, identity
        self._streams = streams
        self._host, self._port = host, int(port)
        self._held = HeldCalls(clock, held_bytes)
        self._replicas: dict[tuple[str, int], tuple[Endpoint, ...]] = {}
        self._served: dict[str, Deployment] = {}
        self._changed = asyncio.Event()
        self._channels: dict[Endpoint, ReplicaChannel] = {}
        self._busy: Counter[Endpoint] = Counter()

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens; once it is open."""
        return Endpoint(host=self._host, port=self._port, name=own_name(self._identity))

    def held(self) -> Mapping[str, int]:
        """How many calls are held, by model."""
        return self._held.counts()

    def use(self, routes: Routes, served: Mapping[str, Deployment]) -> None:
        """The proven replicas of every revision, and the deployments by any key."""
        self._replicas = {
            (route.model, target.revision): target.endpoints for route, target in routes.targets() if target.endpoints
        }
        self._served = {each.model_name: each for each in served.values()}
        if self._streams is not None:
            self._streams.follow(routes)
        self._changed.set()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = aio.server(options=[*_OPTIONS, ("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((_Methods(self),))
        self._port = add_gateway_port(self._server, f"{self._host}:{self._port}", self._identity)
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(0.0)
        await self._held.close()
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def answer(self, method: str, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """One call, from its first message to its answer. Raises LeptonError, or AioRpcError: the replica's own."""
        if method == PROCESS and self._streams is not None:
            if not self._is_let_in(context):
                raise Unavailable("GATEWAY_UNKNOWN")  # UNAUTHENTICATED would be a word about the stream's caller
            await self._streams.watch(requests)
            return
        model, revision, metadata = self._admit(context)
        spec, name = self._spec(model), self._name(model)
        with self._held.place(model, name, spec.held_requests) as held:
            first = await anext(requests, None)
            if first is None:
                raise InvalidArgument("INVALID_FIELD", fields={"model_name": "the call has no message"})
            call = _Call(method=method, model=model, revision=revision, metadata=metadata, first=first)
            with self._held.room(held, name, len(first), spec.held_bytes):
                endpoint = await self._replica(call, held, context, frozenset())
        if method == STREAM:
            async for message in self._stream(call, endpoint, requests, context):
                yield message
            return
        yield await self._unary(call, endpoint, context)

    def _admit(self, context: Any) -> tuple[str, int, _Metadata]:
        """Whom a call is for, as the gateway says."""
        given: _Metadata = tuple(context.invocation_metadata() or ())
        _, _, cluster = str(dict(given).get(HELD, "")).partition(" ")
        target = of_cluster(cluster)
        if target is None or not self._is_let_in(context):
            raise Unauthenticated("TOKEN_MISSING")
        passed = tuple((name, value) for name, value in given if name not in _OWN and not name.startswith("grpc-"))
        return *target, passed

    def _is_let_in(self, context: Any) -> bool:
        """Whether a call has come through the gateway: by its certificate, and by the key that this service gave it."""
        key, _, _ = str(dict(context.invocation_metadata() or ()).get(HELD, "")).partition(" ")
        return is_from_gateway(context, self._identity) and hmac.compare_digest(key.encode(), self._key.encode())

    async def _replica(self, call: _Call, held: Held, context: Any, without: frozenset[Endpoint]) -> Endpoint:
        """A proven replica, as soon as there is one. Raises Unavailable when none comes in time."""
        while True:
            changed = self._changed
            found = [each for each in self._endpoints(call) if each not in without]
            if found:
                return min(found, key=lambda each: (self._busy[each], each))
            deployment = self._served.get(call.model)
            if deployment is None or deployment.state in {Deployment.FAILED, Deployment.DELETING}:
                raise self._not_awake(call.model, held)
            left_s = held.since + self._spec(call.model).cold_start_patience_s - self._clock.monotonic()
            if left_s <= 0:
                raise self._not_awake(call.model, held)
            if held.waking is None or held.waking.done():
                held.waking = asyncio.create_task(self._wake(deployment.name))
            remaining_s = context.time_remaining()
            if context.done() or (remaining_s is not None and remaining_s <= 0):
                raise DeadlineExceeded("DEADLINE_EXCEEDED")  # gRPC may tell of it a moment later, or not at all
            await wait_for_event(changed, min(left_s, _LOOK_S, remaining_s or _LOOK_S), self._clock)

    def _endpoints(self, call: _Call) -> tuple[Endpoint, ...]:
        """Of the revision that the gateway has chosen; where that is gone, of any that is there."""
        own = self._replicas.get((call.model, call.revision))
        if own:
            return own
        deployment = self._served.get(call.model)
        routed = [each.revision for each in deployment.rollout.targets] if deployment is not None else []
        if call.revision in routed:
            return ()
        return next((found for each in routed if (found := self._replicas.get((call.model, each)))), ())

    async def _wake(self, deployment: str) -> None:
        """Marks the deployment, again and again as long as calls are held for it."""
        while True:
            is_marked = await self._waker.wake(deployment)
            await self._clock.sleep(_REMARK_S if is_marked else _RETRY_S)

    def _not_awake(self, model: str, held: Held) -> Unavailable:
        deployment = self._served.get(model)
        why = "it is not deployed any more"
        if deployment is not None:
            why = deployment.message or f"it is {Deployment.State.Name(deployment.state)}"
        waited_s = self._clock.monotonic() - held.since
        return Unavailable("NOT_AWAKE", deployment=self._name(model), waited_s=f"{waited_s:.1f}", why=why)

    async def _unary(self, call: _Call, endpoint: Endpoint, context: Any) -> bytes:
        """The replica's answer; another replica is asked when one is lost before it has answered."""
        tried: frozenset[Endpoint] = frozenset()
        while True:
            async with self._at(endpoint) as channel:
                method: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(call.method)
                asked = method(call.first, metadata=call.metadata, timeout=context.time_remaining())
                try:
                    answer: bytes = await asked
                except aio.AioRpcError as error:
                    tried |= {endpoint}
                    if error.code() is not grpc.StatusCode.UNAVAILABLE or len(tried) >= _ATTEMPTS:
                        raise
                else:
                    await context.send_initial_metadata(tuple(await asked.initial_metadata() or ()))
                    context.set_trailing_metadata((*(await asked.trailing_metadata() or ()), *_engine(endpoint)))
                    return answer
            spec, name = self._spec(call.model), self._name(call.model)
            with (
                self._held.place(call.model, name, spec.held_requests) as held,
                self._held.room(held, name, len(call.first), spec.held_bytes),
            ):
                endpoint = await self._replica(call, held, context, tried)

    async def _stream(
        self, call: _Call, endpoint: Endpoint, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        async def messages() -> AsyncIterator[bytes]:
            yield call.first
            async for message in requests:
                yield message

        async with self._at(endpoint) as channel:
            method: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(call.method)
            asked = method(messages(), metadata=call.metadata, timeout=context.time_remaining())
            async for message in asked:
                yield message
            context.set_trailing_metadata((*(await asked.trailing_metadata() or ()), *_engine(endpoint)))

    @asynccontextmanager
    async def _at(self, endpoint: Endpoint) -> AsyncIterator[aio.Channel]:
        """A channel to a replica; those to replicas that are gone are closed as others are opened."""
        if endpoint not in self._channels:
            known = {each for found in self._replicas.values() for each in found}
            for gone in [each for each in self._channels if each not in known and not self._busy[each]]:
                await self._channels.pop(gone).close()
                del self._busy[gone]
            address = f"{endpoint.host}:{endpoint.port}"
            self._channels[endpoint] = ReplicaChannel(address, endpoint.name, self._identity, _OPTIONS)
        self._busy[endpoint] += 1
        try:
            yield await self._channels[endpoint].now()
        finally:
            self._busy[endpoint] -= 1

    def _spec(self, model: str) -> Spec:
        deployment = self._served.get(model)
        return spec_of(deployment.autoscaling) if deployment is not None else Spec(min_replicas=0, max_replicas=1)

    def _name(self, model: str) -> str:
        deployment = self._served.get(model)
        return deployment.name if deployment is not None else model


def _engine(endpoint: Endpoint) -> _Metadata:
    """What ran the model, as the gateway tells of the replicas that it calls itself."""
    return ((ENGINE, endpoint.engine),) if endpoint.engine else ()


class _Methods(grpc.GenericRpcHandler):
    """Every method, as bytes in and bytes out."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler of any method."""
        method = details.method

        async def behave(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            try:
                async for message in self._holder.answer(method, requests, context):
                    yield message
            except LeptonError as error:
                status = error.to_status(DOMAIN)
                details_ = ((DETAILS_KEY, status.SerializeToString()),)
                await context.abort(error.code, error.message, trailing_metadata=details_)
            except aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))

        return grpc.stream_stream_rpc_method_handler(behave)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
