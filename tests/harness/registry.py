"""The registry and the artifact service themselves behind the client's own channels; sign-in is small_lepton's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chassis.artifacts import ArtifactStore
from chassis.clock import SystemClock
from chassis.paging import Pager
from lepton.inference.v1 import inference_service_pb2_grpc
from lepton.trainer.v1 import artifact_service_pb2_grpc
from services.inference.deployments import Deployments
from services.inference.registry import Registry
from services.inference.servicer import InferenceServicer
from services.inference.store import PAGE_KEY
from services.trainer.artifact_servicer import ArtifactServicer
from services.trainer.transfer_limits import Limits, TransferLimits
from services.trainer.uploads import Uploads
from tests.harness.memory_kv import MemoryKV
from tests.harness.small_lepton import SERVICERS, SmallLepton
from tests.harness.small_lepton.world import World

PART = 64 << 10


@asynccontextmanager
async def registry_lepton(folder: Path, *, limits: Limits | None = None) -> AsyncIterator[tuple[SmallLepton, Any]]:
    """A small Lepton with a real registry and real artifacts (parts of 64 KiB); and the state that both keep."""
    artifacts = ArtifactStore(f"file://{folder}/store")
    before = dict(SERVICERS)
    async with MemoryKV() as kv:
        pager = await Pager.open(kv, PAGE_KEY)

        def inference(_world: World) -> list[tuple[Any, Any]]:
            registry = Registry(kv, artifacts)
            servicer = InferenceServicer(kv, registry, Deployments(kv, registry, "gateway:443"), pager)
            return [(inference_service_pb2_grpc.add_InferenceServiceServicer_to_server, servicer)]

        def trainer(_world: World) -> list[tuple[Any, Any]]:
            uploads = Uploads(kv, artifacts, SystemClock(), part_bytes=PART)
            bounds = TransferLimits(artifacts, SystemClock(), limits or Limits(largest_bytes=1 << 30))
            servicer = ArtifactServicer(artifacts, uploads, bounds)
            return [(artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server, servicer)]

        SERVICERS.update(inference=inference, trainer=trainer)
        try:
            async with SmallLepton.serving(folder) as world:
                yield world, kv
        finally:
            SERVICERS.update(before)
