"""The story that the demo tells, step by step, under one trace."""

import asyncio
import secrets
import time
from typing import Any, Final

import numpy as np

from deploy.demo.checks import checkpoint_outputs, held_out, predictions
from deploy.demo.show import Show
from deploy.local.home import Home
from lepton import data, trace_tree, tracing
from lepton.client import AsyncClient
from lepton.errors import AlreadyExists
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.profile import Profile, choose_project
from lepton.trainer.v1.job_pb2 import Job, Recipe, Workers

PROJECT: Final = "demo"
WORKERS: Final = 4
REPLICAS: Final = 2
PREDICTIONS: Final = 200
POOLS: Final = ("pools/general", "pools/performance")
TOLERANCE: Final = 1e-3
"""Largest difference between a served output and the checkpoint's own; float32 through another engine."""
_TRACE_PATIENCE_S: Final = 20.0
_LAST_TO_REPORT: Final = "triton"


class DemoFailed(Exception):
    """Something did not come out as it must; the message says what."""


async def tell(profile: Profile, home: Home, source: str, show: Show) -> dict[str, Any]:
    """Tells the whole story and returns the report."""
    async with AsyncClient.open(profile, project=PROJECT) as client:
        with tracing.span("demo", parent=None) as root:
            with show.step("sign_in", "sign in: a project, a user, a service account, a short-lived token"):
                key = await _sign_in(profile, home, show)
                session = await client.sign_in(api_key=key)
                await asyncio.to_thread(choose_project, PROJECT, home.profile_file)
                show.note(f"signed in as {session.principal} by API key; the token lives 5 minutes")
                show.note(f"`lepton` on this machine is signed in so too, and means projects/{PROJECT}")
            with show.step("nodes", "see the nodes that have joined"):
                nodes = await _nodes(client, show)
            with show.step("train", f"train on {source}: a gang of {WORKERS} on 2 nodes"):
                job = await _train(client, source, show)
            with show.step("deploy", f"register, export to ONNX, serve with {REPLICAS} replicas on Triton"):
                deployment = await _deploy(client, job, show)
            with show.step("predict", "predict through the gateway with NVIDIA's tritonclient"):
                checked, accuracy = await _predict(client, job, deployment, source, show)
            traceparent = root.traceparent
        trace_id = traceparent.split("-")[1]
        with show.step("trace", "one trace from submit to answer"):
            services = await _trace(client, trace_id, show)
        await _retire_older(client, deployment)
    return {
        "accuracy": job.metrics["accuracy"],
        "workers": WORKERS,
        "nodes": len(set(job.nodes)),
        "fleet_nodes": nodes,
        "replicas": deployment.ready_replicas,
        "predictions_checked": checked,
        "served_accuracy": accuracy,
        "trace_id": trace_id,
        "services_in_trace": services,
        "job": job.name,
        "deployment": deployment.name,
    }


async def _sign_in(profile: Profile, home: Home, show: Show) -> str:
    """Makes the principals of this run; the API key of its service account."""
    password = await asyncio.to_thread(home.admin_password.read_text)
    async with AsyncClient.open(profile, project=PROJECT) as admin:
        await admin.sign_in(user="admin", password=password.strip())
        try:
            await admin.projects.create(PROJECT, display_name="Demo")
        except AlreadyExists:
            show.note("the project is there already")
        account = f"demo-{secrets.token_hex(4)}"
        user_password = secrets.token_urlsafe(18)
        await admin.users.create(account, user_password, display_name="Demo user")
        await admin.service_accounts.create(account, display_name="Demo program")
        members = [f"users/{account}", f"projects/{PROJECT}/serviceAccounts/{account}"]
        await admin.role_bindings.create(account, "developer", members)
        key = await admin.api_keys.create(account, "demo")
        await admin.sign_in(user=account, password=user_password)
        show.note(f"signed in as {(await admin.caller()).principal} by password")
    return key.secret


async def _nodes(client: AsyncClient, show: Show) -> int:
    nodes = [node async for node in client.nodes.list()]
    for node in nodes:
        show.note(f"{node.name}: {len(node.devices)} {node.devices[0].model} devices, {node.capacity.cpu_milli} mCPU")
    if len(nodes) < 2:
        raise DemoFailed(f"only {len(nodes)} nodes have joined")
    return len(nodes)


async def _train(client: AsyncClient, source: str, show: Show) -> Job:
    dataset = await asyncio.to_thread(data.load, source)
    artifact = await client.artifacts.upload(data.to_safetensors(dataset))
    show.note(f"{len(dataset)} images uploaded as {artifact.digest[:19]}…")
    job_id = f"demo-{time.strftime('%H%M%S')}-{secrets.token_hex(2)}"
    wanted = Job(
        recipe=Recipe(name="image_classifier"),
        dataset=artifact.digest,
        workers=Workers(count=WORKERS),
        pools=POOLS,
        max_restarts=3,
    )
    submitted = await client.jobs.create(job_id, wanted)
    show.note(f"submitted {submitted.name}")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_show_logs(client, job_id, show))
        tasks.create_task(_show_metrics(client, job_id, show))
        job = await client.jobs.wait(job_id, timeout_s=300)
    if job.state != Job.SUCCEEDED:
        tail = "\n  ".join(job.error.log_tail)
        raise DemoFailed(f"the job ended as {Job.State.Name(job.state)}: {job.error.message or job.message}\n  {tail}")
    nodes = ", ".join(name.rpartition("/")[2] for name in job.nodes)
    show.note(f"accuracy {job.metrics['accuracy']:.4f} on held-out images; ran on {nodes}; package {job.package[:19]}…")
    return job


async def _show_logs(client: AsyncClient, job_id: str, show: Show) -> None:
    async for line in client.jobs.logs(job_id, follow=True):
        show.note(f"[rank {line.rank}] {line.text}")


async def _show_metrics(client: AsyncClient, job_id: str, show: Show) -> None:
    epoch = -1
    async for point in client.jobs.metrics(job_id, follow=True):
        if point.epoch != epoch and "loss" in point.values:
            epoch = point.epoch
            accuracy = f"  accuracy {point.values['accuracy']:.3f}" if "accuracy" in point.values else ""
            show.note(f"epoch {epoch:>3}  step {point.step:>5}  loss {point.values['loss']:.4f}{accuracy}")


async def _deploy(client: AsyncClient, job: Job, show: Show) -> Deployment:
    version = await client.models.register("digits", job.package)
    show.note(f"registered {version.name}")
    deployment_id = job.name.rpartition("/")[2]
    await client.deployments.create(deployment_id, version.name, replicas=REPLICAS)
    said = ""
    async with asyncio.timeout(180):
        async for deployment in client.deployments.watch(deployment_id):
            now = f"{Deployment.State.Name(deployment.state)} {deployment.ready_replicas}/{REPLICAS} ready"
            if now != said:
                said = now
                show.note(now)
            if deployment.state == Deployment.FAILED:
                raise DemoFailed(f"the deployment failed: {deployment.message}")
            if deployment.state == Deployment.READY:
                return deployment
    raise AssertionError("a watch does not end")


async def _predict(client: AsyncClient, job: Job, deployment: Deployment, source: str, show: Show) -> tuple[int, float]:
    inputs, labels = await asyncio.to_thread(held_out, source, PREDICTIONS)
    with tracing.span("client.predict") as span:
        served = await asyncio.to_thread(
            predictions, client.profile, client.access_token, deployment.model_name, inputs, span.traceparent
        )
    own = await checkpoint_outputs(client, job.package, inputs)
    difference = float(np.abs(served - own).max())
    if difference > TOLERANCE:
        raise DemoFailed(f"served outputs differ from the checkpoint's by {difference:g}, more than {TOLERANCE:g}")
    accuracy = float((served.argmax(axis=1) == labels).mean())
    show.note(f"{len(inputs)} predictions, each equal to the checkpoint's own within {difference:.1e}")
    show.note(f"share of right answers: {accuracy:.4f}")
    return len(inputs), accuracy


async def _trace(client: AsyncClient, trace_id: str, show: Show) -> list[str]:
    """Waits until the last exporters have sent what they hold and the trace no longer grows."""
    deadline, spans, settled = time.monotonic() + _TRACE_PATIENCE_S, -1, 0
    while time.monotonic() < deadline and settled < 3:
        found = await client.trace(trace_id)
        services = sorted({span["service"] for span in found})
        settled = settled + 1 if len(found) == spans and _LAST_TO_REPORT in services else 0
        spans = len(found)
        await asyncio.sleep(0.5)
    for line in trace_tree.render(found).splitlines():
        show.note(line)
    show.note(f"{len(found)} spans of {len(services)} services: {', '.join(services)}")
    return services


async def _retire_older(client: AsyncClient, newest: Deployment) -> None:
    """Takes down what earlier runs serve, so that a machine does not fill up with them."""
    async for deployment in client.deployments.list():
        if deployment.name != newest.name and deployment.state != Deployment.DELETING:
            await client.deployments.delete(deployment.name)
