"""Audit: every mutation is recorded before it is answered, and every refusal; in one place, for all services."""

import inspect
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

from chassis.audit.auditor import Auditor
from chassis.audit.entry import namer
from chassis.call import Call, current_call
from chassis.method import Idempotency, Method
from chassis.middleware import Steps

Naming = Callable[[Any], str]
# What carries the records themselves is not recorded: every record would make another.
_OWN: Final = "lepton.internal.v1.AuditFeedService"


class Audit:
    """A mutation is a method whose proto does not say NO_SIDE_EFFECTS."""

    def __init__(self, auditor: Auditor | None) -> None:
        self._auditor = auditor

    def bind(self, method: Method) -> Steps:
        """Around the handler of a mutation; at the end of every call that was refused."""
        auditor = self._auditor
        if auditor is None or method.is_infrastructure or method.service == _OWN:
            return Steps()

        def leave(call: Call) -> None:
            if call.error is not None and auditor.wants(call):
                auditor.refused(call)

        named: Naming = _nothing if method.streams_requests else namer(method)
        if method.idempotency is Idempotency.NO_SIDE_EFFECTS:
            return Steps(leave=leave)
        if method.streams_requests and method.streams_responses:
            return Steps(leave=leave, around=lambda handler: _session(auditor, handler))
        if method.streams_responses:
            return Steps(leave=leave, around=lambda handler: _stream(auditor, handler, named))
        return Steps(leave=leave, around=lambda handler: _mutation(auditor, handler, named))


def _nothing(_request: Any) -> str:
    return ""


def _mutation(auditor: Auditor, handler: Any, named: Naming) -> Any:
    """A call with one answer, which waits until the record is durable."""

    async def serve(request: Any, context: Any) -> Any:
        call = the_call()
        ticket = auditor.begin(call, named(request))
        try:
            answer = await handler(request, context)
        except BaseException as error:
            auditor.end(ticket, call, error)
            call.is_audited = True  # not once more, as a refusal
            raise
        auditor.end(ticket, call, None, answer)
        await auditor.durable(ticket, call)
        call.is_audited = True
        return answer

    return serve


def _stream(auditor: Auditor, handler: Any, named: Naming) -> Any:
    """A mutation that answers with a stream: recorded at its end."""
    if not inspect.isasyncgenfunction(handler):
        return _mutation(auditor, handler, named)

    async def serve(request: Any, context: Any) -> Any:
        call = the_call()
        ticket = auditor.begin(call, named(request))
        try:
            async with aclosing(handler(request, context)) as answers:
                async for answer in answers:
                    yield answer
        except BaseException as error:
            auditor.end(ticket, call, error)
            call.is_audited = True
            raise
        auditor.end(ticket, call, None)
        await auditor.durable(ticket, call)
        call.is_audited = True

    return serve


def _session(auditor: Auditor, handler: Any) -> Any:
    """Streams both ways are conversations that last: recorded when they begin and when they end."""
    if not inspect.isasyncgenfunction(handler):

        async def converse(requests: Any, context: Any) -> Any:
            call = the_call()
            auditor.opened(call)
            error: BaseException | None = None
            try:
                return await handler(requests, context)
            except BaseException as caught:
                error = caught
                raise
            finally:
                auditor.closed(call, error)
                call.is_audited = True

        return converse

    async def serve(requests: Any, context: Any) -> Any:
        call = the_call()
        auditor.opened(call)
        error: BaseException | None = None
        try:
            async with aclosing(handler(requests, context)) as answers:
                async for answer in answers:
                    yield answer
        except BaseException as caught:
            error = caught
            raise
        finally:
            auditor.closed(call, error)
            call.is_audited = True

    return serve


def the_call() -> Call:
    """The call being served."""
    call = current_call()
    if call is None:
        raise RuntimeError("a handler runs within a call only")
    return call
