"""The mesh as other people's tools meet it: buf curl by reflection, NVIDIA's client at the gateway, etcdctl."""

import asyncio
import base64
import json
import os
import subprocess
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from tritonclient import grpc as tritonclient
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from deploy import tools
from deploy.local.etcd_certificates import OPERATOR, EtcdCertificates
from deploy.local.listeners import PLAINTEXT, exception
from lepton.client import AsyncClient
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.trainer.v1.job_pb2 import Job
from services.inference.config import GatewaySettings
from tests.harness.gateway_load import stub
from tests.harness.listeners import answers_plaintext, listening, shakes_hands
from tests.harness.wait import until
from tests.mesh.conftest import Stack, digits_job

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
SERVICES = {
    "auth": "lepton.auth.v1.DirectoryService",
    "scheduler": "lepton.scheduler.v1.SchedulerService",
    "trainer": "lepton.trainer.v1.TrainerService",
    "inference": "lepton.inference.v1.InferenceService",
}


@pytest_asyncio.fixture
async def served(client: AsyncClient) -> Deployment:
    """The digits, trained and deployed once per stack."""
    try:
        return await client.deployments.wait("digits", timeout_s=60)
    except Exception:  # not there yet
        pass
    await client.jobs.create("digits", await digits_job(client, epochs=12))
    job = await client.jobs.wait("digits", timeout_s=150)
    assert job.state == Job.SUCCEEDED, job
    version = await client.models.register("digits", job.package)
    await client.deployments.create("digits", version.name, replicas=2)
    return await client.deployments.wait("digits", timeout_s=120)


async def curl(stack: Stack, service: str, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
    """`buf curl` against a service's client port; it learns the methods by reflection."""
    address = getattr(stack.profile, service)
    header = ["--header", f"authorization: Bearer {token}", "--reflect-header", "*"] if token else []
    command = [str(tools.buf()), "curl", "--protocol", "grpc", "--cacert", str(stack.profile.trust_bundle), *header]
    where = [part.replace("URL", f"https://{address}") for part in arguments]
    return await asyncio.to_thread(
        lambda: subprocess.run([*command, *where], capture_output=True, text=True, timeout=60, env={**os.environ})
    )


@pytest.mark.parametrize("service", SERVICES)
async def test_buf_curl_lists_services_and_calls_a_method(stack: Stack, client: AsyncClient, service: str) -> None:
    token = await client.fresh_access_token()
    listed = await curl(stack, service, "URL", "--list-services", token=token)
    assert SERVICES[service] in listed.stdout.split(), listed.stderr
    methods = await curl(stack, service, "URL", "--list-methods", token=token)
    assert f"{SERVICES[service]}/" in methods.stdout, methods.stderr


async def test_a_unary_and_a_streaming_call_work_with_a_token(stack: Stack, client: AsyncClient) -> None:
    token = await client.fresh_access_token()
    pools = await curl(
        stack, "scheduler", "--data", "{}", "URL/lepton.scheduler.v1.SchedulerService/ListPools", token=token
    )
    assert {pool["name"] for pool in json.loads(pools.stdout)["pools"]} == {"pools/general", "pools/performance"}
    await client.jobs.create("streamed", await digits_job(client, epochs=2))
    await client.jobs.wait("streamed", timeout_s=120)
    body = json.dumps({"name": "projects/mesh/jobs/streamed"})
    metrics = await curl(
        stack, "trainer", "--data", body, "URL/lepton.trainer.v1.TrainerService/StreamMetrics", token=token
    )
    assert "loss" in metrics.stdout, metrics.stderr


async def test_commands_on_a_fresh_stack_mean_a_project_that_is_there(stack: Stack, client: AsyncClient) -> None:
    assert (await client.projects.get(stack.profile.project)).name == "projects/default"


async def test_without_a_token_the_answer_is_unauthenticated(stack: Stack) -> None:
    schema = ["--schema", "protos", "--schema", "third_party"]
    refused = await curl(stack, "trainer", *schema, "--data", "{}", "URL/lepton.trainer.v1.TrainerService/ListJobs")
    assert json.loads(refused.stderr)["code"] == "unauthenticated"


async def test_a_wrong_field_is_named(stack: Stack, client: AsyncClient) -> None:
    token = await client.fresh_access_token()
    body = json.dumps({"parent": "projects/mesh", "job_id": "Not An Id", "job": {"workers": {"count": 1}}})
    refused = await curl(
        stack, "trainer", "--data", body, "URL/lepton.trainer.v1.TrainerService/CreateJob", token=token
    )
    answer = json.loads(refused.stderr)
    assert answer["code"] == "invalid_argument"
    (bad_request,) = [each for each in answer["details"] if each["type"] == "google.rpc.BadRequest"]
    padded = bad_request["value"] + "=" * (-len(bad_request["value"]) % 4)
    violations = error_details_pb2.BadRequest.FromString(base64.b64decode(padded)).field_violations
    assert "job_id" in {violation.field for violation in violations}


async def test_etcd_holds_the_state_under_our_prefix(stack: Stack, served: Deployment) -> None:
    endpoint = json.loads(stack.home.ports_file.read_text())["etcd-client"]
    made = EtcdCertificates(stack.home.etcd_certificates)
    command = [
        *(str(tools.etcdctl()), f"--endpoints=https://127.0.0.1:{endpoint}", f"--cacert={made.ca}"),
        *(f"--cert={made.certificate(OPERATOR)}", f"--key={made.key(OPERATOR)}"),
        *("get", "--prefix", "/lepton/", "--keys-only"),
    ]
    listed = await asyncio.to_thread(
        lambda: subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "ETCDCTL_API": "3"}, timeout=30
        )
    )
    keys = listed.stdout.split()
    for kind in ("pools", "nodes", "workloads", "assignments"):
        assert any(key.startswith(f"/lepton/scheduler/{kind}/") for key in keys), kind


async def test_every_answer_names_its_version_its_revision_and_its_engine(
    stack: Stack, client: AsyncClient, served: Deployment
) -> None:
    metadata = (("authorization", f"Bearer {await client.fresh_access_token()}"),)
    credentials = grpc.ssl_channel_credentials(stack.profile.trust_bundle.read_bytes())
    options = [("grpc.ssl_target_name_override", "gateway")]
    request = service_pb2.ModelInferRequest(model_name=served.model_name)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1, 8, 8])
    request.raw_input_contents.append(bytes(4 * 64))
    async with grpc.aio.secure_channel(stack.profile.gateway, credentials, options=options) as channel:
        call = stub(channel)(request, metadata=metadata, timeout=20)
        await call
        told = {key: value for key, value in await call.trailing_metadata() if key.startswith("lepton-")}
    assert told.pop("lepton-model-version").startswith("sha256:")
    assert told == {
        "lepton-deployment-revision": f"{served.name}/revisions/{served.revision}",
        "lepton-engine": "onnxruntime",
        "lepton-model": served.model_version,
        "lepton-revision": str(served.revision),
    }


async def test_nvidias_client_flow_passes_at_the_gateway(stack: Stack, client: AsyncClient, served: Deployment) -> None:
    headers = {"authorization": f"Bearer {await client.fresh_access_token()}"}
    await asyncio.to_thread(flow, stack, served.model_name, headers)


def flow(stack: Stack, model: str, headers: dict[str, str]) -> None:
    """What `simple_grpc_*` of NVIDIA's examples do."""
    gateway = tritonclient.InferenceServerClient(
        stack.profile.gateway,
        ssl=True,
        root_certificates=str(stack.profile.trust_bundle),
        channel_args=[("grpc.ssl_target_name_override", "gateway")],
    )
    try:
        assert gateway.is_server_live(headers=headers)
        assert gateway.is_server_ready(headers=headers)
        assert gateway.is_model_ready(model, headers=headers)
        assert gateway.get_server_metadata(headers=headers).name == "triton"
        assert gateway.get_model_metadata(model, headers=headers).inputs[0].name == "x"
        assert gateway.get_model_config(model, headers=headers).config.name == model
        tensor = tritonclient.InferInput("x", [3, 1, 8, 8], "FP32")
        tensor.set_data_from_numpy(np.zeros((3, 1, 8, 8), np.float32))
        assert gateway.infer(model, [tensor], headers=headers).as_numpy("logits").shape == (3, 10)
        answers: list[Any] = []
        waiting = gateway.async_infer(
            model, [tensor], lambda result, error: answers.append((result, error)), headers=headers
        )
        waiting.get_result() if hasattr(waiting, "get_result") else None
        for _ in range(200):
            if answers:
                break
            gateway.is_server_live(headers=headers)
        result, error = answers[0]
        assert error is None
        assert result.as_numpy("logits").shape == (3, 10)
        assert gateway.get_inference_statistics(model, headers=headers).model_stats[0].inference_count >= 3
        gateway.start_stream(lambda result, error: answers.append((result, error)), headers=headers)
        gateway.async_stream_infer(model, [tensor])
        gateway.stop_stream()  # it waits for what was asked
        result, error = answers[-1]
        assert (error, len(answers)) == (None, 2)
        with pytest.raises(InferenceServerException, match="PERMISSION_DENIED.*send tensors in the message"):
            gateway.register_system_shared_memory("region", "/region", 64, headers=headers)
        with pytest.raises(InferenceServerException, match="NOT_FOUND.*Request for unknown model"):
            gateway.get_model_metadata(f"{model}-none", headers=headers)
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            gateway.infer(model, [tensor])
    finally:
        gateway.close()


async def test_every_listener_has_tls_but_those_of_the_table(
    stack: Stack, client: AsyncClient, served: Deployment
) -> None:
    """`openssl s_client` gets through and a plaintext caller does not; what is plaintext is exactly the table's."""
    await client.jobs.create("listening", await digits_job(client, epochs=2000, workers=2))
    try:
        await client.jobs.wait("listening", states={Job.RUNNING}, timeout_s=60)
        found = await asyncio.to_thread(listening, stack.home)
        answered = await asyncio.gather(*map(answers_plaintext, found))
        open_ = {each for each, has_answered in zip(found, answered, strict=True) if has_answered}
        closed = [each for each in found if exception(each.component, each.listener) is None]
        shaken = await asyncio.gather(*(asyncio.to_thread(shakes_hands, stack.home, each) for each in closed))
        assert [each for each, is_shaken in zip(closed, shaken, strict=True) if not is_shaken] == []
    finally:
        await client.jobs.cancel("listening")
    assert [each for each in found if each.host != "127.0.0.1"] == []
    assert open_ & set(closed) == set()
    used = {exception(each.component, each.listener) for each in found} - {None}
    assert used == set(PLAINTEXT)
    assert {(each.component, each.listener) for each in closed} >= {
        *(("etcd", name) for name in ("client", "peer")),
        *((service, name) for service in SERVICES for name in ("client", "mesh")),
        *(("collector", name) for name in ("otlp-grpc", "otlp-http")),
        ("gateway", "gateway"),
    }


async def test_the_service_beside_the_gateway_bounds_its_access_log(stack: Stack) -> None:
    log = stack.home.root / "gateway" / "access.log"
    full = GatewaySettings(directory=log.parent, address="").access_log_bytes
    credentials = grpc.ssl_channel_credentials(stack.profile.trust_bundle.read_bytes())
    options = [("grpc.ssl_target_name_override", "gateway")]
    async with grpc.aio.secure_channel(stack.profile.gateway, credentials, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await stub(channel)(service_pb2.ModelInferRequest(), timeout=20)
    await until(
        lambda: log.stat().st_size > 0, 20
    )  # Envoy writes: a log that nobody has written to is never opened anew
    os.truncate(log, full)  # a hole: it takes no room
    await until(lambda: log.with_name("access.log.1").exists() and log.exists(), 60)
    assert log.stat().st_size < full
