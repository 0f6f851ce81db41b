"""The collector's doors: OTLP over gRPC, OTLP over HTTP, and the query for a trace."""

import zlib
from typing import Final

import grpc
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceServicer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chassis.access import PolicyReplica
from deploy.telemetry.collector import otlp_json
from deploy.telemetry.collector.reading import caller, may_read
from deploy.telemetry.collector.span import read_spans
from deploy.telemetry.collector.store import SpanStore
from lepton.errors import LeptonError, Unauthenticated

_PROTOBUF: Final = "application/x-protobuf"
_LARGEST_BODY: Final = 16 * 1024 * 1024
_GZIP: Final = 16 + zlib.MAX_WBITS


class GrpcReceiver(TraceServiceServicer):
    """OTLP/gRPC."""

    def __init__(self, store: SpanStore) -> None:
        self._store = store

    async def Export(
        self, request: ExportTraceServiceRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> ExportTraceServiceResponse:
        """Stores a batch of spans."""
        self._store.add(read_spans(request.resource_spans))
        return ExportTraceServiceResponse()


def http_application(store: SpanStore, access: PolicyReplica) -> Starlette:
    """OTLP/HTTP (`POST /v1/traces`) and the query (`GET /api/traces/{trace_id}`), which takes an access token.

    A trace that the caller may not see is answered as one that does not exist.
    """

    async def receive(request: Request) -> Response:
        try:
            body = await _body(request)
            export = otlp_json.parse(body) if _is_json(request) else ExportTraceServiceRequest.FromString(body)
        except _TooLarge:
            return Response("the batch is over 16 MiB: send smaller ones", status_code=413)
        except (ValueError, zlib.error, json_format.ParseError, DecodeError) as error:
            return Response(f"not an OTLP export: {error}", status_code=400)
        store.add(read_spans(export.resource_spans))
        if _is_json(request):
            return JSONResponse({})
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type=_PROTOBUF)

    async def query(request: Request) -> Response:
        try:
            principal = caller(access, request.headers.get("authorization", ""))
        except LeptonError as error:
            return _refusal(error)
        spans = store.trace(request.path_params["trace_id"].lower())
        if not spans or not may_read(access, principal, spans):
            return JSONResponse({"error": "no span of this trace has been received"}, status_code=404)
        return JSONResponse({"spans": spans})

    async def live(_request: Request) -> Response:
        return Response("ok")

    return Starlette(
        routes=[
            Route("/v1/traces", receive, methods=["POST"]),
            Route("/api/traces/{trace_id}", query, methods=["GET"]),
            Route("/healthz", live, methods=["GET"]),
        ]
    )


class _TooLarge(Exception):
    """A batch is larger than is taken, as it comes or unpacked."""


async def _body(request: Request) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        if len(received) <= _LARGEST_BODY:  # of more the rest is read and dropped: who still sends hears no answer
            received += chunk
    if len(received) > _LARGEST_BODY:
        raise _TooLarge
    if request.headers.get("content-encoding") != "gzip":
        return bytes(received)
    unpacking = zlib.decompressobj(_GZIP)
    unpacked = unpacking.decompress(received, _LARGEST_BODY)
    if unpacking.unconsumed_tail:
        raise _TooLarge
    return unpacked


def _refusal(error: LeptonError) -> Response:
    told = {"error": str(error), "reason": error.reason}
    if isinstance(error, Unauthenticated):
        return JSONResponse(told, status_code=401, headers={"www-authenticate": "Bearer"})
    return JSONResponse(told, status_code=503, headers={"retry-after": "1"})


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("application/json")
