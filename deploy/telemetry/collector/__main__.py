"""Runs the collector: `python -m deploy.telemetry.collector --database F --grpc HOST:PORT --http HOST:PORT`."""

import argparse
import asyncio
from pathlib import Path

import grpc
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import add_TraceServiceServicer_to_server

from deploy.telemetry.collector.receiver import GrpcReceiver, http_application
from deploy.telemetry.collector.store import SpanStore


async def serve(store: SpanStore, grpc_address: str, http_address: str) -> None:
    """Serves both protocols until the process is told to end."""
    receiver = grpc.aio.server()
    add_TraceServiceServicer_to_server(GrpcReceiver(store), receiver)  # type: ignore[no-untyped-call]
    receiver.add_insecure_port(grpc_address)
    await receiver.start()
    host, _, port = http_address.rpartition(":")
    http = uvicorn.Config(http_application(store), host=host, port=int(port), log_level="warning", access_log=False)
    try:
        await uvicorn.Server(http).serve()  # returns on SIGTERM and SIGINT
    finally:
        await receiver.stop(grace=1.0)


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(prog="collector", description="Receives OTLP traces, answers by trace id.")
    parser.add_argument("--database", type=Path, required=True, help="the SQLite file that keeps the spans")
    parser.add_argument("--grpc", required=True, metavar="HOST:PORT", help="where OTLP/gRPC is received")
    parser.add_argument("--http", required=True, metavar="HOST:PORT", help="where OTLP/HTTP and queries are received")
    arguments = parser.parse_args()
    with SpanStore(arguments.database) as store:
        asyncio.run(serve(store, arguments.grpc, arguments.http))


main()
