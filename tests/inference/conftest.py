"""The inference service's world: a scheduler and a gateway that do what the test says; all else is real."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio
from safetensors.numpy import save

from chassis.artifacts import ArtifactStore
from chassis.election import Election
from chassis.ledger import Ledger
from lepton.golden import DATATYPES
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.models import Architecture, ModelPackage, Signature, Tensor
from lepton.models.package import GOLDEN, WEIGHTS
from lepton.names import DeploymentName
from lepton.repository import Manifest
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference.deployments import Deployments
from services.inference.reconciler import Reconciler
from services.inference.registry import Registry
from services.inference.rollout.advance import Evidence
from services.inference.store import LEADER, deployment_key, deployments
from tests.harness.crashes import Crash, MortalKV, MortalLedger, Steps
from tests.harness.ledger import ScriptedLedger, scripted, scripted_ledger
from tests.harness.memory_kv import MemoryKV
from tests.harness.shown import shown

PROJECT = "projects/acme"
SIGNATURE = Signature(
    inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 1, 8, 8)),),
    outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 10)),),
)


@dataclass(slots=True)
class ScriptedRouting:
    """A gateway that routes what it is told to; everything when it is told nothing."""

    only: frozenset[str] | None = None
    files: tuple[str, ...] = ()
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def refused(self, model: str) -> tuple[str, ...]:
        return self.files

    async def refused_changed(self) -> None:
        await self.changed.wait()
        self.changed.clear()

    async def routed(self, model: str, revision: int) -> frozenset[str]:
        every = frozenset(f"127.0.0.1:{9000 + at}" for at in range(10))
        return every if self.only is None else self.only


@dataclass(slots=True)
class ScriptedWatch:
    """Finds out about rollouts what it is told to have found out: nothing, when it is told nothing."""

    found: Evidence = field(default_factory=Evidence)

    async def evidence(self, deployment: Deployment, sides: object) -> Evidence:
        return self.found

    async def forget(self, deployment: str) -> None:
        pass

    async def close(self) -> None:
        pass


@dataclass(slots=True)
class World:
    """What a test of the inference service holds."""

    kv: Any  # a MemoryKV, or an EtcdKV
    scheduler: ScriptedLedger
    ledger: Ledger
    artifacts: ArtifactStore
    routing: ScriptedRouting = field(default_factory=ScriptedRouting)
    watch: ScriptedWatch = field(default_factory=ScriptedWatch)

    @property
    def registry(self) -> Registry:
        return Registry(self.kv, self.artifacts)

    @property
    def served(self) -> Deployments:
        return Deployments(self.kv, self.registry, "gateway:443")

    async def package(self, project: str = "acme", signature: Signature = SIGNATURE, **files: str) -> str:
        """A model package in the store; its digest."""
        stored = {WEIGHTS: save({"w": np.zeros(3, np.float32)}), GOLDEN: save(golden(signature))}
        content = {name: await self.artifacts.put_bytes(project, data) for name, data in stored.items()}
        package = ModelPackage(
            architecture=Architecture(),
            files={**content, **files},
            signature=signature,
            metrics={"accuracy": 0.9},
            lineage={"job": f"projects/{project}/jobs/j", "recipe": "image_classifier"},
        )
        return await self.artifacts.put_bytes(project, package.render())

    async def model(self, model_id: str = "digits") -> Model:
        return await self.registry.create_model(pb.CreateModelRequest(parent=PROJECT, model_id=model_id))

    async def version(self, model: Model, **options: Any) -> ModelVersion:
        return await self.registry.create_version(version_request(model, await self.package(**options)))

    async def deployed(self, deployment_id: str = "digits", replicas: int = 2, **options: Any) -> Deployment:
        """A deployment of a new model, as CreateDeployment leaves it."""
        version = await self.version(await self.model(f"m-{deployment_id}"), **options)
        return await self.served.create(deployment_request(version.name, deployment_id, replicas=replicas))

    async def deployment(self, deployment: Deployment, condition: Callable[[Deployment], object]) -> Deployment:
        """The deployment as soon as it is as wished."""
        found: Deployment = await shown(
            self.kv, key_of(deployment), Deployment, lambda current: current is not None and condition(current)
        )
        return found

    async def in_state(self, deployment: Deployment, state: Any) -> Deployment:
        return await self.deployment(deployment, lambda current: current.state == state)

    async def gone(self, deployment: Deployment) -> None:
        await shown(self.kv, key_of(deployment), Deployment, lambda current: current is None)

    async def current(self, deployment: Deployment) -> Deployment:
        return await deployments(self.kv).get(DeploymentName.parse(deployment.name))

    async def exported(self, deployment: Deployment, revision: int = 1) -> None:
        """The export ends well."""
        name = workload_of(deployment, "export", revision)
        await self.scheduler.workload(name)
        onnx = await self.artifacts.put_bytes("acme", b"onnx")
        await self.scheduler.place(name)
        await self.scheduler.end(name, Workload.SUCCEEDED, outputs={"onnx": onnx})

    async def serving(self, deployment: Deployment, revision: int = 1) -> str:
        """The workload of the replicas, as soon as there is one."""
        name = workload_of(deployment, "serve", revision)
        await self.scheduler.workload(name)
        return name

    async def repository_files(self, digest: str) -> dict[str, str]:
        """The files of the form of a repository that every node can run, by path."""
        manifest = Manifest.parse(await self.artifacts.read("acme", digest))
        return dict(manifest.variants[-1].files)

    def reconciler(self, candidate: str = "i1", steps: Steps | None = None) -> Reconciler:
        election = Election(self.kv, LEADER, candidate)
        kv: Any = self.kv if steps is None else MortalKV(self.kv, steps)
        ledger: Any = self.ledger if steps is None else MortalLedger(self.ledger, steps)
        registry = Registry(kv, self.artifacts)
        return Reconciler(kv, election, ledger, registry, self.artifacts, self.routing, self.watch)

    @asynccontextmanager
    async def reconciling(self, candidate: str = "i1") -> AsyncIterator["asyncio.Task[None]"]:
        task = asyncio.create_task(self.reconciler(candidate).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def killed_at(self, steps: Steps, until: Callable[[], Any]) -> bool:
        """Runs a reconciler until the step that kills it, or until the condition; whether it was killed."""
        running = asyncio.create_task(self.reconciler(steps=steps).run())
        reached = asyncio.ensure_future(until())
        try:
            await asyncio.wait({running, reached}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reached.cancel()
            running.cancel()
            outcome = (await asyncio.gather(running, reached, return_exceptions=True))[0]
        if isinstance(outcome, BaseExceptionGroup):
            assert outcome.subgroup(Crash) is not None, outcome
            return True
        assert isinstance(outcome, asyncio.CancelledError), outcome
        return False


def golden(signature: Signature, rows: int = 2) -> dict[str, Any]:
    """Zeros for every tensor of a signature."""
    return {
        tensor.name: np.zeros([rows if size < 0 else size for size in tensor.shape], DATATYPES[tensor.datatype])
        for tensor in (*signature.inputs, *signature.outputs)
    }


def key_of(deployment: Deployment) -> str:
    return deployment_key(DeploymentName.parse(deployment.name))


def workload_of(deployment: Deployment, purpose: str, revision: int = 1) -> str:
    name = DeploymentName.parse(deployment.name)
    return f"projects/{name.project}/workloads/{purpose}-{name.deployment}-{deployment.uid[:8]}-r{revision}"


def version_request(model: Model, package: str) -> pb.CreateModelVersionRequest:
    version = ModelVersion(package=package)
    return pb.CreateModelVersionRequest(parent=model.name, model_version=version, request_id=str(uuid.uuid4()))


def deployment_request(version: str, deployment_id: str = "digits", **fields: Any) -> pb.CreateDeploymentRequest:
    deployment = Deployment(model_version=version, **{"replicas": 1, **fields})
    return pb.CreateDeploymentRequest(
        parent=PROJECT, deployment_id=deployment_id, deployment=deployment, request_id=str(uuid.uuid4())
    )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An inference service's world whose scheduler nobody reaches."""
    async with MemoryKV() as kv, aio.insecure_channel("127.0.0.1:1") as channel:
        scheduler = await scripted(kv)
        yield World(kv, scheduler, Ledger(channel), ArtifactStore(f"file://{tmp_path}/artifacts"))


@pytest.fixture
async def scheduled_world(tmp_path: Path) -> AsyncIterator[World]:
    """An inference service's world with its scheduler on a real server."""
    async with MemoryKV() as kv, scripted_ledger("inference") as (scheduler, ledger):
        yield World(kv, scheduler, ledger, ArtifactStore(f"file://{tmp_path}/artifacts"))
