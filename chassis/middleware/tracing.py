"""Tracing: the server's span, under the caller's trace; an unsampled call never touches the SDK."""

from typing import Any, Final

import grpc

from chassis import telemetry
from chassis.call import Call
from chassis.method import Method
from chassis.middleware import Steps

_SERVER_FAULTS: Final = frozenset({
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
})  # fmt: skip


class Tracing:
    """Opens a span for sampled calls and continues every trace, sampled or not."""

    def bind(self, method: Method) -> Steps:
        """Nothing for health and reflection."""
        if method.is_infrastructure:
            return Steps()
        name = method.path[1:]
        enter_trace = telemetry.enter_trace

        def enter(call: Call, _request: Any) -> None:
            header = call.traceparent
            trace = telemetry.parse(header) if header else None
            if trace is None or trace.is_sampled:
                span = telemetry.start_span(name, trace, "server", {"rpc.system.name": "grpc", "rpc.method": name})
                call.span = span
                if span is not None:
                    trace = span.trace
                elif trace is None and telemetry.is_tracing():
                    trace = telemetry.unsampled()  # decided here, once, for everything below
            if trace is not None:
                call.trace = trace
                enter_trace(trace)

        return Steps(enter=enter, leave=_leave)


def _leave(call: Call) -> None:
    span = call.span
    if span is None:
        return
    span.set("rpc.response.status_code", call.code.name)
    if call.principal is not None:
        span.set("lepton.principal", call.principal.name)
    if call.code in _SERVER_FAULTS:
        span.fail(getattr(call.error, "reason", call.code.name))
        span.set("error.type", call.code.name)
    span.end()
