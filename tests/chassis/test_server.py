"""What every server offers beside its services: health, reflection, channelz, metrics."""

import asyncio
from typing import Any

import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bench.echo import SERVICE, EchoMessage, EchoStub
from lepton import errors
from tests.harness.mesh import Mesh

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("service", ["", SERVICE, "grpc.health.v1.Health"])
async def test_health_is_told_to_anyone(mesh: Mesh, service: str) -> None:
    async with mesh.client(None) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING


async def test_health_of_an_unknown_service_is_not_found(mesh: Mesh) -> None:
    async with mesh.client(None) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="lepton.nothing")
        with pytest.raises(errors.NotFound):
            await stub.Check(request)
        watch = stub.Watch(request)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_watchers_hear_not_serving_before_the_drain(mesh: Mesh) -> None:
    async with mesh.client(None) as channel:
        watches = [health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        draining = asyncio.ensure_future(mesh.server.drain(1.0))
        for watch in watches:
            assert (await watch.read()).status == NOT_SERVING
        await draining


async def _services(channel: Any, version: str) -> list[str]:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    async for answer in call:
        return [each.name for each in answer.list_services_response.service]
    return []


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_needs_a_token_on_the_client_port(mesh: Mesh, version: str) -> None:
    async with mesh.client("users/nobody") as channel:
        assert {SERVICE, "grpc.health.v1.Health", f"grpc.reflection.{version}.ServerReflection"} <= set(
            await _services(channel, version)
        )
    async with mesh.client(None) as channel:
        with pytest.raises(errors.Unauthenticated):
            await _services(channel, version)


async def test_the_admin_port_is_open_to_the_machine(mesh: Mesh) -> None:
    async with mesh.client() as busy:
        await EchoStub(busy).Echo(EchoMessage(name="projects/acme", text="x"))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.server.ports['admin']}") as channel:
            assert SERVICE in await _services(channel, "v1")
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health")
            async for answer in reflection.ServerReflectionInfo(iter([request])):
                assert answer.file_descriptor_response.file_descriptor_proto
            servers = await channelz_pb2_grpc.ChannelzStub(channel).GetServers(channelz_pb2.GetServersRequest())
            assert sum(each.data.calls_succeeded for each in servers.server) >= 1


async def test_calls_are_counted_under_go_grpc_prometheus_names(mesh: Mesh) -> None:
    async with mesh.client() as channel:
        stub = EchoStub(channel)
        await stub.Echo(EchoMessage(name="projects/acme", text="x"))
        with pytest.raises(errors.NotFound):
            await stub.Echo(EchoMessage(name="projects/other", text="x"))
        assert [each async for each in stub.Watch(EchoMessage(name="projects/acme", text="x", count=3))]
    page = await _page(mesh, "/metrics")
    labels = f'grpc_method="Echo",grpc_service="{SERVICE}",grpc_type="unary"'
    assert f"grpc_server_started_total{{{labels}}} 2.0" in page
    assert f"grpc_server_handling_seconds_count{{{labels}}} 2.0" in page
    assert 'grpc_code="OK",grpc_method="Echo"' in page
    assert 'grpc_code="NotFound",grpc_method="Echo"' in page
    watch = f'grpc_method="Watch",grpc_service="{SERVICE}",grpc_type="server_stream"'
    assert f"grpc_server_msg_sent_total{{{watch}}} 3.0" in page
    assert "process_resident_memory_bytes" in page
    assert "see /metrics" in await _page(mesh, "/")


async def _page(mesh: Mesh, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.server.ports["metrics"])
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return text
