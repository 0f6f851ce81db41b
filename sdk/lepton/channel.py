"""Channels to Lepton's servers: TLS, token, deadline and trace on every call; failed calls raise lepton.errors."""

import asyncio
import atexit
import gc
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import grpc
import grpc.aio

from lepton import tracing
from lepton.errors import LeptonError, from_rpc_error

DEFAULT_TIMEOUT_S: Final = 30.0
_WRITE_FAILED: Final = "Internal error from Core"
Token = str | Callable[[], str]

OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    # A partitioned connection is found in 13 s; without keepalive never.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name: how long one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What every call gets unless it says otherwise."""

    timeout_s: float | None = DEFAULT_TIMEOUT_S  # of unary calls; a stream has the deadline that its caller gives it
    token: Token | None = None
    remaining_s: Callable[[], float | None] = lambda: (
        None
    )  # of the call that is being served, to propagate its deadline


@atexit.register
def release() -> None:
    """Let go of the calls that are over: a process that holds one at its end is kept by gRPC for 2 s (its TLS waits).

    They lie in cycles, which the collector finds too late when the interpreter ends.
    """
    gc.unfreeze()
    gc.collect()


def service_config() -> str:
    """Retries and balancing, as gRPC's service config; which methods may retry follows from their idempotency."""
    return files("lepton").joinpath("service_config.json").read_text()


def options(*extra: tuple[str, Any]) -> list[tuple[str, Any]]:
    """Channel options: ours, the service config, and `extra`, which win."""
    chosen = dict(OPTIONS) | {"grpc.service_config": service_config()} | dict(extra)
    return list(chosen.items())


def credentials(trust_bundle_pem: bytes | None = None) -> grpc.ChannelCredentials:
    """Server-authenticated TLS: trust this bundle, or the system's authorities."""
    return grpc.ssl_channel_credentials(root_certificates=trust_bundle_pem)


def mutual_credentials(key_pem: bytes, chain_pem: bytes, trust_bundle_pem: bytes) -> grpc.ChannelCredentials:
    """Mutual TLS: the client proves itself by its certificate too."""
    return grpc.ssl_channel_credentials(trust_bundle_pem, key_pem, chain_pem)


def connect(
    address: str,
    *,
    token: Token | None = None,
    trust_bundle_pem: bytes | None = None,
    with_credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
    plaintext: bool = False,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    extra_options: Sequence[tuple[str, Any]] = (),
) -> "Channel":
    """A channel to a client port; `server_name` is the certificate's name when it is not the address."""
    extra = [*extra_options, *([("grpc.ssl_target_name_override", server_name)] if server_name else [])]
    defaults = Defaults(timeout_s=timeout_s, token=token)
    if plaintext:
        return Channel(grpc.aio.insecure_channel(address, options(*extra)), defaults)
    chosen = with_credentials or credentials(trust_bundle_pem)
    return Channel(grpc.aio.secure_channel(address, chosen, options(*extra)), defaults)


class Channel(grpc.aio.Channel):
    """A grpc.aio channel whose calls carry deadline, token and trace, and raise lepton.errors.

    The channel below may be replaced while stubs live on, which is how a renewed client certificate comes into use.
    """

    def __init__(self, channel: grpc.aio.Channel, defaults: Defaults) -> None:
        self.below = channel
        self.defaults = defaults
        self.version = 0

    def replace(self, channel: grpc.aio.Channel) -> grpc.aio.Channel:
        """Use another channel for new calls; the old one is returned, for calls in flight to end on."""
        old, self.below = self.below, channel
        self.version += 1
        return old

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A unary call; stubs call this."""
        return _Multicallable(self, "unary_unary", method, args, kwargs, is_unary=True, has_request=True)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A server stream; stubs call this."""
        return _Multicallable(self, "unary_stream", method, args, kwargs, is_unary=False, has_request=True)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A client stream; stubs call this."""
        return _Multicallable(self, "stream_unary", method, args, kwargs, is_unary=False, has_request=False)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A bidirectional stream; stubs call this."""
        return _Multicallable(self, "stream_stream", method, args, kwargs, is_unary=False, has_request=False)

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.below.close(None)

    async def close(self, grace: float | None = None) -> None:
        """End the channel, after its calls or after `grace` seconds."""
        await self.below.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the connection."""
        return self.below.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another."""
        await self.below.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until connected."""
        await self.below.channel_ready()


class _Multicallable:
    """One method of a stub: finds the channel's present callable, and prepares each call."""

    __slots__ = (
        "_args",
        "_callable",
        "_channel",
        "_has_request",
        "_is_unary",
        "_kind",
        "_kwargs",
        "_method",
        "_version",
    )

    def __init__(
        self,
        channel: Channel,
        kind: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        is_unary: bool,
        has_request: bool,
    ) -> None:
        self._channel, self._kind, self._method, self._args, self._kwargs = channel, kind, method, args, kwargs
        self._is_unary, self._has_request = is_unary, has_request
        self._version = -1
        self._callable: Any = None

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] | None = None,
        **kwargs: Any,
    ) -> "RpcCall":
        channel = self._channel
        if self._version != channel.version:
            make = getattr(channel.below, self._kind)
            self._callable, self._version = make(self._method, *self._args, **self._kwargs), channel.version
        defaults = channel.defaults
        span, headers = _headers(self._method, defaults.token, metadata)
        deadline_s = timeout if timeout is not None or not self._is_unary else defaults.timeout_s
        remaining_s = defaults.remaining_s()
        if remaining_s is not None and (self._is_unary or deadline_s is not None):
            deadline_s = remaining_s if deadline_s is None else min(deadline_s, remaining_s)
        call = self._callable(request, timeout=deadline_s, metadata=headers, **kwargs)
        servers_end = None
        if not self._has_request:
            servers_end = ServersEnd()
            call.add_done_callback(servers_end)
        if span is not None:
            call.add_done_callback(_Ending(span))
        return RpcCall(call, servers_end)


class RpcCall:
    """A call in flight, with grpc.aio's own methods; what fails raises lepton.errors."""

    __slots__ = ("_call", "_servers_end")

    def __init__(self, call: Any, servers_end: "ServersEnd | None" = None) -> None:
        self._call, self._servers_end = call, servers_end

    def _error(self, error: grpc.aio.AioRpcError) -> LeptonError:
        return from_rpc_error((self._servers_end and self._servers_end.error) or error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF."""
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None

    async def write(self, request: Any) -> None:
        """Send a message."""
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        except asyncio.InvalidStateError:  # the call has ended, or the caller has said that it writes no more
            if self._servers_end is None or self._servers_end.error is None:
                raise
            raise from_rpc_error(self._servers_end.error) from None

    async def done_writing(self) -> None:
        """Send no more messages."""
        try:
            await self._call.done_writing()
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        except grpc.aio.InternalError:  # what grpc.aio makes of a call that the server has just ended
            raise asyncio.InvalidStateError("the call has ended") from None


def _headers(
    method: str, token: Token | None, metadata: Sequence[tuple[str, str | bytes]] | None
) -> tuple[tracing.Span | None, list[tuple[str, str | bytes]]]:
    headers = list(metadata or ())
    if token is not None:
        headers.append(("authorization", f"Bearer {token if isinstance(token, str) else token()}"))
    trace = tracing.current_trace()
    if trace is None:
        return None, headers
    name = method[1:]
    span = tracing.start_span(name, trace, "client", {"rpc.system.name": "grpc", "rpc.method": name})
    headers.append(("traceparent", (span.trace if span is not None else trace).traceparent))
    return span, headers


class ServersEnd:
    """How the server ended a call with a stream of requests.

    When a write fails because the server has answered already, grpc.aio writes "Internal error from Core" over the
    answer (grpc/grpc#36066): half of the refused streams of several messages would fail as INTERNAL.
    """

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: grpc.aio.AioRpcError | None = None

    def __call__(self, call: Any) -> None:
        code, details = _at_once(call.code()), _at_once(call.details())
        if code is not grpc.StatusCode.OK and details != _WRITE_FAILED:
            self.error = grpc.aio.AioRpcError(
                code, _at_once(call.initial_metadata()), _at_once(call.trailing_metadata()), details
            )


def _at_once(answer: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that has nothing to wait for, as those of a call that is done."""
    try:
        answer.send(None)
    except StopIteration as stop:
        return stop.value
    answer.close()
    return None


class _Ending:
    """Ends the client's span with the call."""

    __slots__ = ("_span",)

    def __init__(self, span: tracing.Span) -> None:
        self._span = span

    def __call__(self, call: Any) -> None:
        code = _at_once(call.code()) or grpc.StatusCode.UNKNOWN
        self._span.set("rpc.response.status_code", code.name)
        if code is not grpc.StatusCode.OK and not call.cancelled():  # who has heard enough of a stream has not failed
            self._span.fail(code.name)
        self._span.end()
