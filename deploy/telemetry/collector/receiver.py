"""The collector's doors: OTLP over gRPC, OTLP over HTTP, and the query for a trace."""

import gzip
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

from deploy.telemetry.collector import otlp_json
from deploy.telemetry.collector.span import read_spans
from deploy.telemetry.collector.store import SpanStore

_PROTOBUF: Final = "application/x-protobuf"
_LARGEST_BODY: Final = 16 * 1024 * 1024


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


def http_application(store: SpanStore) -> Starlette:
    """OTLP/HTTP (`POST /v1/traces`) and the query (`GET /api/traces/{trace_id}`)."""

    async def receive(request: Request) -> Response:
        if int(request.headers.get("content-length", "0")) > _LARGEST_BODY:
            return Response("the batch is over 16 MiB: send smaller ones", status_code=413)
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        try:
            export = otlp_json.parse(body) if _is_json(request) else ExportTraceServiceRequest.FromString(body)
        except (ValueError, json_format.ParseError, DecodeError) as error:
            return Response(f"not an OTLP export: {error}", status_code=400)
        store.add(read_spans(export.resource_spans))
        if _is_json(request):
            return JSONResponse({})
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type=_PROTOBUF)

    async def query(request: Request) -> Response:
        spans = store.trace(request.path_params["trace_id"].lower())
        if not spans:
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


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("application/json")
