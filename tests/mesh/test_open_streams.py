"""Streams of inferences on the whole mesh: known to the inference service though it was started anew."""

import signal
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lepton.client import AsyncClient
from lepton.inference.v1.autoscaling_pb2 import Autoscaling
from tests.harness.scaling_trace import deploy
from tests.harness.wait import until
from tests.mesh.conftest import PROJECT, Stack

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(300)]


@dataclass
class Stream:
    """One caller's stream."""

    call: Any
    model: str

    @classmethod
    async def open(cls, client: AsyncClient, channel: grpc.aio.Channel, model: str) -> "Stream":
        bearer = (("authorization", f"Bearer {await client.fresh_access_token()}"),)
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
        stream = cls(infer(metadata=bearer, timeout=200), model)
        await stream.asks()
        return stream

    async def asks(self) -> None:
        x = np.zeros((1, 64), np.float32)
        request = service_pb2.ModelInferRequest(model_name=self.model, raw_input_contents=[x.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=x.shape)
        await self.call.write(request)
        answer = await self.call.read()
        assert answer.error_message == ""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=lambda each: each.name)
async def test_a_session_that_ends_ends_its_streams_from_before_a_restart_and_no_other(
    stack: Stack, client: AsyncClient, end: signal.Signals
) -> None:
    name = f"streamed-{end.name.lower()}"
    deployment = await deploy(client, name, Autoscaling(min_replicas=1, max_replicas=1))
    password = stack.home.admin_password.read_text().strip()
    root = grpc.ssl_channel_credentials(stack.profile.trust_bundle.read_bytes())
    options = [("grpc.ssl_target_name_override", "gateway")]
    async with (
        AsyncClient.open(stack.profile, project=PROJECT, user="admin", password=password) as leaving,
        grpc.aio.secure_channel(stack.profile.gateway, root, options=options) as channel,
    ):
        ends = await Stream.open(leaving, channel, deployment.model_name)
        stays = await Stream.open(client, channel, deployment.model_name)
        before = stack.restarts("inference")
        psutil.Process(stack.pid("inference")).send_signal(end)
        while_away = await Stream.open(leaving, channel, deployment.model_name)
        await until(lambda: stack.restarts("inference") > before, 60)
        await leaving.sign_out()
        assert await ends.call.code() is grpc.StatusCode.INTERNAL
        assert await while_away.call.code() is grpc.StatusCode.INTERNAL
        await stays.asks()
        await stays.call.done_writing()
        assert await stays.call.code() is grpc.StatusCode.OK
    await client.deployments.delete(name)
