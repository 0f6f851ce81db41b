"""Ends the open streams of those who may not call any more, at Envoy, which by itself asks only when a call begins.

Envoy's external processor (envoy.service.ext_proc.v3) has one stream here for every stream of inferences there.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from chassis.logs import logger
from lepton.errors import LeptonError
from services.inference.envoy.access import Caller, CallRules, standing
from services.inference.envoy.extprocpb.external_processor_pb2 import (
    GrpcStatus,
    HeadersResponse,
    HttpStatus,
    ImmediateResponse,
    ProcessingRequest,
    ProcessingResponse,
    TrailersResponse,
)
from services.inference.envoy.routes import Routes

log = logger(__name__)

PROCESS: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
_CLAIMS: Final = "envoy.filters.http.jwt_authn"
_FIELDS: Final = "envoy.filters.http.grpc_field_extraction"
_HTTP_OK: Final = 200


class OpenStreams:
    """The streams that are open at one Envoy, and the rules that they have to keep to."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}
        self._rules: CallRules | None = None
        self._open: dict[asyncio.Future[LeptonError], Caller] = {}

    def __len__(self) -> int:
        return len(self._open)

    def use(self, rules: CallRules) -> None:
        """Judge by these from now on, what is open too."""
        self._rules = rules
        for cut, caller in list(self._open.items()):
            self._judge(cut, caller)

    def follow(self, routes: Routes) -> None:
        """Remember of which model each served model is a version: a role on it counts too."""
        self._above |= {route.model: route.above for route in routes.routes}

    async def process(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """One stream of Envoy's: answers that it may go on, until it ends or must not go on."""
        cut: asyncio.Future[LeptonError] = asyncio.get_running_loop().create_future()
        waiting: asyncio.Future[bytes] | None = None
        incoming = aiter(requests)
        try:
            while True:
                waiting = asyncio.ensure_future(anext(incoming, b""))
                either: set[asyncio.Future[Any]] = {waiting, cut}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if cut.done():
                    yield _ended(cut.result()).SerializeToString()
                    return
                data = waiting.result()
                if not data:
                    return
                request = ProcessingRequest.FromString(data)
                if request.HasField("request_headers"):
                    self._open[cut] = _caller(request)
                    self._judge(cut, self._open[cut])
                yield _go_on(request).SerializeToString()
        finally:
            self._open.pop(cut, None)
            if waiting is not None:
                waiting.cancel()

    def _judge(self, cut: "asyncio.Future[LeptonError]", caller: Caller) -> None:
        if self._rules is None or cut.done():
            return
        error = standing(self._rules, caller, self._above.get(caller.model, ""))
        if error is not None:
            log.info("stream cut", principal=caller.principal, model=caller.model, reason=error.reason)
            cut.set_result(error)


def _caller(request: ProcessingRequest) -> Caller:
    told = {name: MessageToDict(found) for name, found in request.metadata_context.filter_metadata.items()}
    claims, names = told.get(_CLAIMS, {}).get("claims", {}), told.get(_FIELDS, {}).get("model_name", [])
    return Caller(
        principal=str(claims.get("sub", "")),
        token=str(claims.get("jti", "")),
        session=str(claims.get("sid", "")),
        issued=float(claims.get("iat", 0)),
        model=str(next(iter(names), "")),
    )


def _go_on(request: ProcessingRequest) -> ProcessingResponse:
    if request.HasField("response_trailers"):
        return ProcessingResponse(response_trailers=TrailersResponse())
    return ProcessingResponse(request_headers=HeadersResponse())


def _ended(error: LeptonError) -> ProcessingResponse:
    """An answer where none has begun; a stream that has begun to answer is reset."""
    return ProcessingResponse(
        immediate_response=ImmediateResponse(
            status=HttpStatus(code=_HTTP_OK),
            body=error.message.encode(),
            grpc_status=GrpcStatus(status=error.code.value[0]),
            details=f"stream_cut{{{error.reason}}}",
        )
    )
