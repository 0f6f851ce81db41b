"""The members of an etcd cluster: a channel to each, which one to talk to, and what its refusals mean."""

from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TypeVar

import grpc
from grpc import aio

from chassis.clock import Clock
from chassis.etcd.tls import TLS
from chassis.etcdpb import rpc_pb2_grpc
from chassis.kv import Compacted, KVError, LeaseNotFound, OutcomeUnknown, Refused, Unavailable

# With this, a member cut off from its cluster answers "no leader" and ends streams, instead of serving what is stale.
REQUIRE_LEADER: Final = (("hasleader", "true"),)
_RETRY_S: Final = 0.05
_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),  # never stop looking whether the peer is alive
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", -1),  # a range may be long; etcd is trusted
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.enable_retries", 0),  # whether to repeat a call is decided here, per call
)
_NEVER_SENT: Final = ("failed to connect to all addresses", "DNS resolution failed", "etcdserver: no leader")
_REFUSED: Final = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
)

Request = TypeVar("Request")
Response = TypeVar("Response")


class Member:
    """One etcd server."""

    def __init__(self, endpoint: str, tls: TLS | None) -> None:
        self.endpoint = endpoint
        self.channel = _channel(endpoint, tls)
        self.kv: rpc_pb2_grpc.KVAsyncStub = rpc_pb2_grpc.KVStub(self.channel)
        self.watch: rpc_pb2_grpc.WatchAsyncStub = rpc_pb2_grpc.WatchStub(self.channel)
        self.lease: rpc_pb2_grpc.LeaseAsyncStub = rpc_pb2_grpc.LeaseStub(self.channel)

    @property
    def is_ready(self) -> bool:
        """Whether a connection stands; if not, one is being made."""
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY


class Members:
    """All members; calls go to the preferred one for as long as it answers."""

    def __init__(self, endpoints: Sequence[str], tls: TLS | None, clock: Clock) -> None:
        self._members = [Member(endpoint.rpartition("//")[2], tls) for endpoint in endpoints]
        self._preferred = 0
        self._clock = clock

    async def close(self) -> None:
        """Close every channel; calls in flight are cancelled."""
        for member in self._members:
            await member.channel.close()

    async def connected(self, deadline: float) -> Member:
        """A member with a standing connection: the preferred one, else any; Unavailable after the deadline."""
        while True:
            for step in range(len(self._members)):
                at = (self._preferred + step) % len(self._members)
                if self._members[at].is_ready:
                    self._preferred = at
                    return self._members[at]
            if self._clock.monotonic() >= deadline:
                names = ", ".join(member.endpoint for member in self._members)
                raise Unavailable(f"no connection to etcd at {names}")
            await self._clock.sleep(_RETRY_S)

    def avoid(self, member: Member) -> None:
        """Prefer the next member, because this one failed."""
        if self._members[self._preferred] is member:
            self._preferred = (self._preferred + 1) % len(self._members)

    async def read(
        self,
        method: Callable[[Member], aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        timeout_s: float,
    ) -> Response:
        """Make a call that changes nothing, on one member after the other until the time is over."""
        deadline = self._clock.monotonic() + timeout_s
        share_s = timeout_s / len(self._members)
        while True:
            member = await self.connected(deadline)
            left_s = max(_RETRY_S, min(share_s, deadline - self._clock.monotonic()))
            try:
                return await method(member)(request, timeout=left_s, metadata=REQUIRE_LEADER)
            except aio.AioRpcError as error:
                failure = _failure(error)
                if not isinstance(failure, Unavailable | OutcomeUnknown):
                    raise failure from error
                if self._clock.monotonic() >= deadline:
                    raise Unavailable(str(failure)) from error
            self.avoid(member)
            await self._clock.sleep(_RETRY_S)

    async def write(
        self,
        method: Callable[[Member], aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        timeout_s: float,
    ) -> Response:
        """Make a call that changes something: repeated only while it certainly never reached the cluster."""
        deadline = self._clock.monotonic() + timeout_s
        while True:
            member = await self.connected(deadline)
            left_s = max(_RETRY_S, deadline - self._clock.monotonic())
            try:
                return await method(member)(request, timeout=left_s, metadata=REQUIRE_LEADER)
            except aio.AioRpcError as error:
                failure = _failure(error)
                if isinstance(failure, Unavailable | OutcomeUnknown):
                    self.avoid(member)
                if not _was_never_sent(error) or self._clock.monotonic() >= deadline:
                    raise failure from error
            await self._clock.sleep(_RETRY_S)


def raise_failure(error: aio.AioRpcError) -> NoReturn:
    """Raise what a failed stream means, unless it merely broke."""
    raise _failure(error) from error


def is_broken(error: aio.AioRpcError) -> bool:
    """Whether a stream ended because the connection or the member did, so that another one may go on."""
    return isinstance(_failure(error), Unavailable | OutcomeUnknown)


def _channel(endpoint: str, tls: TLS | None) -> aio.Channel:
    if tls is None:
        return aio.insecure_channel(endpoint, options=_OPTIONS)
    name = (("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()
    return aio.secure_channel(endpoint, tls.credentials(), options=(*_OPTIONS, *name))


def _was_never_sent(error: aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith(_NEVER_SENT)


def _failure(error: aio.AioRpcError) -> KVError | ValueError:
    code, details = error.code(), error.details() or ""
    text = f"etcd: {code.name}: {details}"
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return Compacted(0) if "compacted" in details else ValueError(details)
    if code is grpc.StatusCode.NOT_FOUND and "lease" in details:
        return LeaseNotFound(details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or _was_never_sent(error):
        return Unavailable(text)
    if code in _REFUSED:
        return Refused(text)
    return OutcomeUnknown(text)
