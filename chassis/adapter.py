"""The one adapter between grpc.aio's four kinds of handlers and the middleware: each method is compiled once."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from chassis.call import Call, enter_call, keep_metadata
from chassis.message_limits import decoder
from chassis.method import Method, describe
from chassis.middleware import Enter, Leave, Middleware, Receive, Steps
from lepton.errors import DETAILS_KEY, LeptonError

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]  # not subscriptable at run time
else:
    Handler = grpc.RpcMethodHandler
_UNBOUNDED_CALL_S: Final = 60.0  # for unary calls of clients that set no deadline
_MESSAGE_LIMIT: Final = 1024  # characters
_METADATA_LIMIT: Final = 4096  # bytes of details; gRPC refuses 8 KiB of metadata in all


class Registrar:
    """Takes the place of the server in `add_XServicer_to_server`: collects the methods, compiled."""

    def __init__(self, middleware: Sequence[Middleware], domain: str) -> None:
        self._middleware = middleware
        self._domain = domain
        self.handlers: dict[str, Handler] = {}
        self.methods: list[Method] = []
        self.services: list[str] = []
        self.streams: set[Call] = set()  # open response streams, to be cut when the server drains

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """What generated code calls with the names and behaviours of a service."""
        self.services.append(service)
        for name, handler in handlers.items():
            method = describe(service, name, handler)
            self.methods.append(method)
            self.handlers[method.path] = compile_handler(method, handler, self._middleware, self._domain, self.streams)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Ignored: the same methods arrive by name."""


class Router(grpc.GenericRpcHandler):
    """Finds the handler of a call: one dictionary for all services."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler, or None for an unknown method."""
        keep_metadata(details.invocation_metadata)
        return self._handlers.get(details.method)


def compile_handler(
    method: Method, handler: Handler, middleware: Sequence[Middleware], domain: str, streams: set[Call]
) -> Handler:
    """The handler with all middleware around it, in as few steps as the method needs."""
    steps = [each.bind(method) for each in middleware]
    succeed = tuple(step.leave for step in reversed(steps) if step.leave)
    fail = tuple(action for step in reversed(steps) for action in (step.recover, step.leave) if action)
    finish = Finish(succeed, fail, domain, streams)
    inner = _wrapped(handler, steps)
    decode = decoder(handler.request_deserializer, method)
    if method.streams_requests:
        enter = tuple(step.enter for step in steps if step.enter)
        receive = tuple(step.receive for step in steps if step.receive)
        behaviour = _stream(inner, method, enter, receive, finish)
        if method.streams_responses:
            return grpc.stream_stream_rpc_method_handler(behaviour, decode, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(behaviour, decode, handler.response_serializer)
    both = tuple(action for step in steps for action in (step.enter, step.receive) if action)
    if method.streams_responses:
        behaviour = _unary_stream(inner, method, both, finish)
        return grpc.unary_stream_rpc_method_handler(behaviour, decode, handler.response_serializer)
    behaviour = _unary_unary(inner, method, both, finish)
    return grpc.unary_unary_rpc_method_handler(behaviour, decode, handler.response_serializer)


def _wrapped(handler: Handler, steps: Sequence[Steps]) -> Any:
    inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    for step in reversed(steps):
        if step.around is not None:
            inner = step.around(inner)
    return inner


def _unary_unary(inner: Any, method: Method, actions: tuple[Receive, ...], finish: "Finish") -> Any:
    leave = finish.succeed

    async def serve(request: Any, context: Any) -> Any:
        call = Call(method, context)
        enter_call(call)
        response = None
        try:
            for action in actions:
                action(call, request)
            if call.deadline is not None:
                response = await inner(request, context)
            else:
                async with asyncio.timeout(_UNBOUNDED_CALL_S):
                    response = await inner(request, context)
        except BaseException as error:  # noqa: BLE001 - the edge: finish() maps it, and raises again what must go on
            call.error = error
        if call.error is not None:
            return await finish(call)
        call.received = call.sent = 1
        for step in leave:
            step(call)
        return response

    return serve


def _unary_stream(inner: Any, method: Method, actions: tuple[Receive, ...], finish: "Finish") -> Any:
    generates = inspect.isasyncgenfunction(inner)

    async def serve(request: Any, context: Any) -> None:
        call = Call(method, context)
        enter_call(call)
        finish.open(call)
        try:
            for action in actions:
                action(call, request)
            call.received = 1
            if generates:
                await _send(call, inner(request, context), context)
            else:
                await inner(request, context)
        except BaseException as error:  # noqa: BLE001 - as above
            call.error = error
        await finish(call)

    return serve


def _stream(
    inner: Any, method: Method, enter: tuple[Enter, ...], receive: tuple[Receive, ...], finish: "Finish"
) -> Any:
    generates = inspect.isasyncgenfunction(inner)

    async def serve(requests: AsyncIterator[Any], context: Any) -> Any:
        call = Call(method, context)
        enter_call(call)
        finish.open(call)
        response = None
        try:
            for step in enter:
                step(call, None)
            checked = _Requests(call, requests, receive)
            if generates:
                await _send(call, inner(checked, context), context)
            else:
                response = await inner(checked, context)
        except BaseException as error:  # noqa: BLE001 - as above
            call.error = error
        if response is not None:
            call.sent = 1
        await finish(call)
        return response

    return serve


async def _send(call: Call, responses: Any, context: Any) -> None:
    write = context.write
    async with aclosing(responses):
        async for response in responses:
            call.is_sending = True
            await write(response)
            call.is_sending = False
            call.sent += 1
            if call.cut_by is not None:
                raise asyncio.CancelledError


class _Requests:
    """A stream of requests, each checked before the servicer sees it."""

    __slots__ = ("_call", "_next", "_receive")

    def __init__(self, call: Call, requests: AsyncIterator[Any], receive: tuple[Receive, ...]) -> None:
        self._call = call
        self._next = requests.__aiter__().__anext__
        self._receive = receive

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> Any:
        message = await self._next()
        call = self._call
        call.received += 1
        for step in self._receive:
            step(call, message)
        return message


class Finish:
    """The end of a call: runs what leaves, innermost first, and sends the error when there is one."""

    __slots__ = ("_domain", "_fail", "_streams", "succeed")

    def __init__(self, succeed: tuple[Leave, ...], fail: tuple[Leave, ...], domain: str, streams: set[Call]) -> None:
        self.succeed = succeed
        self._fail = fail
        self._domain = domain
        self._streams = streams

    def open(self, call: Call) -> None:
        call.task = asyncio.current_task()
        if call.method.streams_responses:
            self._streams.add(call)

    async def __call__(self, call: Call) -> None:
        self._streams.discard(call)
        error = call.error
        if isinstance(error, asyncio.CancelledError) and call.cut_by is not None:
            # The stream was cut by us, not by its caller: the task goes on, to say why.
            call.error = call.cut_by
            if call.task is not None:
                call.task.uncancel()
        for step in self.succeed if call.error is None else self._fail:
            step(call)
        if isinstance(call.error, LeptonError):
            await _abort(call.context, call.error, self._domain)
        if call.error is not None:
            raise call.error


async def _abort(context: Any, error: LeptonError, domain: str) -> None:
    status = error.to_status(domain)
    status.message = message = _short(error.message)
    while len(status.details) > 1 and status.ByteSize() > _METADATA_LIMIT:
        del status.details[-1]
    if status.ByteSize() > _METADATA_LIMIT:
        _shorten_facts(status)
    await context.abort(error.code, message, ((DETAILS_KEY, status.SerializeToString()),))


def _short(text: str) -> str:
    """As much of a message as fits: gRPC sends each byte that is not printable ASCII as three."""
    text = text[:_MESSAGE_LIMIT]
    while len(text) + sum(3 * len(each.encode()) - 1 for each in text if not " " <= each <= "~") > 2 * _MESSAGE_LIMIT:
        text = text[: len(text) * 3 // 4]
    return text


def _shorten_facts(status: status_pb2.Status) -> None:
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    for key, value in list(info.metadata.items())[:16]:
        info.metadata[key] = value[: _METADATA_LIMIT // 64]
    for key in list(info.metadata)[16:]:
        del info.metadata[key]
    status.details[0].Pack(info)
