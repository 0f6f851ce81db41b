"""Batch predictions with the real scheduler and the real agent's tasks: each shard is a process of its own."""

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import save

from chassis.artifacts import ArtifactStore
from chassis.election import Election
from chassis.ledger import Ledger
from lepton.inference.v1 import batch_prediction_service_pb2 as pb
from lepton.inference.v1 import inference_service_pb2 as models_pb
from lepton.inference.v1.batch_prediction_pb2 import BatchInput, BatchPrediction
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.models import ModelPackage, Signature, Tensor
from lepton.models.package import GOLDEN, ONNX
from lepton.names import BatchPredictionName
from lepton.scheduler.v1.workload_pb2 import Slice
from services.agent.order import SliceOrder
from services.agent.runner import Ending, SliceControl
from services.inference.batch.predictions import BatchPredictions
from services.inference.batch.prepare import PrepareSpec, prepare
from services.inference.batch.reconciler import BatchReconciler
from services.inference.batch.states import ENDED
from services.inference.batch.store import LEADER, key
from services.inference.registry import Registry
from tests.harness.array_agent import ArrayAgent, array_agent
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, replica_of
from tests.harness.shown import shown
from tests.inference.pipelines.conftest import linear_onnx

SIGNATURE = Signature(
    inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 4)),),
    outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 3)),),
)
WEIGHTS = np.random.default_rng(7).normal(size=(4, 3)).astype(np.float32)


class PlanRunner:
    """Runs the preparation in this process, in a thread, in place of the launcher: it is the same function."""

    def __init__(self, artifacts: str) -> None:
        self._store = ArtifactStore(artifacts)._store

    async def run(self, order: SliceOrder, control: SliceControl) -> Ending:
        control.running()
        spec = PrepareSpec.parse(order.program.torch.spec_json.encode())
        control.output("plan", await asyncio.to_thread(prepare, self._store, spec))
        return Ending(state=Slice.SUCCEEDED)


@dataclass
class BatchWorld:
    """What a test holds."""

    replica: Replica
    kv: MemoryKV
    artifacts: ArtifactStore
    folder: Path
    exits: AsyncExitStack
    agents: dict[str, ArrayAgent] = field(default_factory=dict)

    @property
    def registry(self) -> Registry:
        return Registry(self.kv, self.artifacts)

    async def agent(self, name: str = "n1") -> ArrayAgent:
        url = self.artifacts.url
        running = array_agent(
            self.replica,
            self.folder,
            name,
            memory_bytes=1 << 36,
            artifacts=url,
            runners={"torch": PlanRunner(url)},
        )
        self.agents[name] = await self.exits.enter_async_context(running)
        return self.agents[name]

    @asynccontextmanager
    async def reconciling(self, candidate: str = "i1") -> AsyncIterator["asyncio.Task[None]"]:
        ledger = Ledger(await self.replica.channel("service/inference"))
        election = Election(self.kv, LEADER, candidate)
        task = asyncio.create_task(BatchReconciler(self.kv, election, ledger, self.registry, self.artifacts).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def version(self, onnx: bytes | None = None) -> ModelVersion:
        """A registered linear model."""
        x = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
        package = ModelPackage(
            files={
                ONNX: await self.artifacts.put_bytes("acme", onnx or linear_onnx(WEIGHTS)),
                GOLDEN: await self.artifacts.put_bytes("acme", save({"x": x, "logits": x @ WEIGHTS})),
            },
            signature=SIGNATURE,
            metrics={},
            lineage={},
        )
        digest = await self.artifacts.put_bytes("acme", package.render())
        model = await self.registry.create_model(
            models_pb.CreateModelRequest(parent="projects/acme", model_id=f"m-{uuid.uuid4().hex[:8]}")
        )
        return await self.registry.create_version(
            models_pb.CreateModelVersionRequest(parent=model.name, model_version=ModelVersion(package=digest))
        )

    async def start(self, data: bytes, *, name: str = "b", version: str = "", **fields: Any) -> BatchPrediction:
        """A batch prediction over a dataset."""
        artifact = await self.artifacts.put_bytes("acme", data)
        given = BatchPrediction(
            model_version=version or (await self.version()).name,
            input=BatchInput(artifact=artifact, columns=fields.pop("columns", ())),
            **{"max_workers": 2, "cpu_milli": 250, **fields},
        )
        request = pb.CreateBatchPredictionRequest(
            parent="projects/acme", batch_prediction_id=name, batch_prediction=given, request_id=str(uuid.uuid4())
        )
        return await BatchPredictions(self.kv, self.registry, self.artifacts).create(request)

    async def until(self, batch: BatchPrediction, condition: Callable[[BatchPrediction], object]) -> BatchPrediction:
        """It, as soon as it is as wished."""
        at = key(BatchPredictionName.parse(batch.name))
        found: BatchPrediction = await shown(self.kv, at, BatchPrediction, lambda b: b is not None and condition(b), 90)
        return found

    async def ended(self, batch: BatchPrediction) -> BatchPrediction:
        return await self.until(batch, lambda b: b.state in ENDED)

    async def manifest(self, batch: BatchPrediction) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.artifacts.read("acme", batch.manifest))
        return found

    async def arrays(self, batch: BatchPrediction) -> dict[str, Any]:
        """The NPZ result, its shards joined in the manifest's order."""
        parts: list[dict[str, Any]] = []
        for shard in (await self.manifest(batch))["shards"]:
            with np.load(io.BytesIO(await self.artifacts.read("acme", shard["file"]))) as archive:
                parts.append({name: archive[name] for name in archive.files})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    async def lines(self, batch: BatchPrediction) -> list[dict[str, Any]]:
        """The JSONL result."""
        shards = (await self.manifest(batch))["shards"]
        files = [await self.artifacts.read("acme", shard["file"]) for shard in shards]
        return [json.loads(line) for line in b"".join(files).splitlines()]


def npz(x: Any) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, x=x)
    return packed.getvalue()


def workers() -> list[psutil.Process]:
    """The processes below this one that predict a shard now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "services.inference.batch.shard" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BatchWorld]:
    async with MemoryKV() as ledger, MemoryKV() as kv, replica_of(ledger) as replica, AsyncExitStack() as exits:
        await replica.create_pool()
        yield BatchWorld(replica, kv, ArtifactStore(f"file://{tmp_path}/artifacts"), tmp_path, exits)
