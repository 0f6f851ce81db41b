"""Errors: whatever a call raised becomes an error of lepton.errors; what is not ours is a bug, told to the log only."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc

from chassis.call import Call
from chassis.logs import logger
from chassis.method import Method
from chassis.middleware import Steps
from lepton.errors import (
    Aborted,
    DeadlineExceeded,
    Internal,
    LeptonError,
    ResourceExhausted,
    Unavailable,
    from_rpc_error,
)

log = logger(__name__)

Translation = Callable[[BaseException], LeptonError]
# What downstream services answer and the caller must hear unchanged; other answers are this service's own failure.
_PASSED_ON: Final = (Unavailable, ResourceExhausted, DeadlineExceeded, Aborted)


class Errors:
    """Maps exceptions at the edge; `translations` are for exceptions of layers below that have a meaning to callers."""

    def __init__(self, translations: Mapping[type[BaseException], Translation] | None = None) -> None:
        self._translations = dict(translations or {})

    def bind(self, method: Method) -> Steps:
        """The same for every method."""
        return Steps(recover=self._recover)

    def _recover(self, call: Call) -> None:
        error = call.error
        if isinstance(error, (asyncio.CancelledError, grpc.aio.AbortError)):
            call.code = _code_of(call, error)
            return
        if not isinstance(error, Exception):
            return  # SystemExit and the like end the process
        mapped = self._map(call, error)
        call.error, call.code = mapped, mapped.code

    def _map(self, call: Call, error: Exception) -> LeptonError:
        if isinstance(error, LeptonError):
            if not error.domain:
                return error
            return error if isinstance(error, _PASSED_ON) else _bug(call, error)
        if isinstance(error, grpc.RpcError):
            below = from_rpc_error(error)
            return below if isinstance(below, _PASSED_ON) else _bug(call, error)
        if isinstance(error, TimeoutError):
            return DeadlineExceeded("DEADLINE_EXCEEDED")
        for kind in type(error).__mro__:
            translation = self._translations.get(kind)
            if translation is not None:
                return translation(error)
        return _bug(call, error)


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def _code_of(call: Call, error: BaseException) -> grpc.StatusCode:
    if isinstance(error, asyncio.CancelledError):
        over = call.deadline is not None and (call.remaining_s or 0) <= 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if over else grpc.StatusCode.CANCELLED
    code = call.context.code()
    return code if isinstance(code, grpc.StatusCode) else _CODES.get(code, grpc.StatusCode.UNKNOWN)


def _bug(call: Call, error: Exception) -> LeptonError:
    log.error("call failed by a bug", error=error, method=call.method.path)
    facts: Any = {"request_id": call.request_id} if call.request_id else {}
    if call.trace is not None:
        facts["trace_id"] = f"{call.trace.trace_id:032x}"
    return Internal("INTERNAL", **facts)
