"""Runs Triton programs: a serving replica with its models, ready only when golden inference has passed."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chassis.replica_channels import MUTUAL, TLS_FACT
from lepton.artifacts import ArtifactStore
from lepton.errors import FailedPrecondition
from lepton.internal.v1 import model_server_pb2
from lepton.internal.v1.model_server_pb2_grpc import ModelServerServiceStub
from lepton.repository import Offer
from lepton.scheduler.v1 import program_pb2, workload_pb2
from services.agent.model_cache import ModelCache, ModelFiles
from services.agent.order import SliceOrder
from services.agent.replica_settings import ReplicaSettings
from services.agent.replica_state import ReplicaEvent, ReplicaFailed, ReplicaState
from services.agent.runner import Ending, SliceControl, Surroundings
from services.agent.served_model import ServedModel
from services.agent.triton_memory import LeakLimit
from services.agent.triton_models import fetch
from services.agent.triton_offer import device_classes, offer
from services.agent.triton_replica import TritonReplica
from services.agent.triton_shared import SharedModels
from services.agent.triton_tls import ServingCertificate
from services.agent.triton_tools import TritonTools
from services.agent.work import WorkFolders

Slice = workload_pb2.Slice


class TritonRunner:
    """Fetches what a replica serves and keeps it serving."""

    def __init__(
        self,
        *,
        surroundings: Surroundings,
        folders: WorkFolders,
        tools: TritonTools | None,
        trace_url: str,
        leak: LeakLimit | None = None,
        cache: ModelCache | None = None,
        servers: Any = None,
        certificate: ServingCertificate | None = None,
    ) -> None:
        self._certificate = certificate
        self._servers = servers  # the channel to the inference service, which tells shared servers what to serve
        self._cache = cache
        self._leak = leak or LeakLimit()
        self._surroundings, self._folders, self._tools, self._trace_url = surroundings, folders, tools, trace_url

    async def run(self, order: SliceOrder, control: SliceControl) -> Ending:
        """Serve until asked to stop."""
        if self._tools is None:
            raise FailedPrecondition("TRITON_NOT_CONFIGURED", node=order.node)
        async with self._folders.open(order.folder) as folder:
            offered = offer(self._tools, device_classes(order.devices, self._surroundings.device_models))
            roots = self._surroundings.otlp_certificate
            settings = ReplicaSettings(trace_url=self._trace_url, trace_roots=roots, leak=self._leak)
            charge = self._shared(order, folder / "triton", offered, settings) if order.program.triton.shared else None
            await self._surroundings.artifacts_ready(order.project)
            # Reads whole models from the store.
            models = await asyncio.to_thread(
                self._fetch, order.project, order.program.triton, folder / "files", offered
            )
            facts = {f"engine/{model.name}": model.engine for model in models if model.engine}
            if self._certificate is not None:
                facts[TLS_FACT] = MUTUAL

            async def observe(event: ReplicaEvent) -> None:
                _tell(control, event, facts)

            replica = TritonReplica(
                tools=self._tools,
                directory=folder / "triton",
                models=models,
                observe=observe,
                settings=settings,
                charge=charge,
                devices=_devices(order, self._surroundings),
                certificate=self._certificate,
            )
            try:
                async with asyncio.TaskGroup() as tasks:
                    stopping = tasks.create_task(_pass_on(control, replica))
                    await replica.run()
                    stopping.cancel()
            except* ReplicaFailed as failures:
                failure = str(failures.exceptions[0])
            else:
                return Ending(state=Slice.STOPPED, message=control.stop.reason)
            return Ending(state=Slice.FAILED, exit_code=1, message=failure)

    def _shared(self, order: SliceOrder, folder: Path, offered: Offer, settings: ReplicaSettings) -> SharedModels:
        if self._servers is None:
            raise FailedPrecondition("INFERENCE_NOT_CONFIGURED", node=order.node)

        def hello(endpoint: str) -> model_server_pb2.ModelServerHello:
            return model_server_pb2.ModelServerHello(
                workload=order.gang.workload, slice=order.key.index, endpoint=endpoint
            )

        return SharedModels(
            connect=ModelServerServiceStub(self._servers).ServeModels,
            hello=hello,
            fetch=lambda model, target: fetch(self._files(order.project), order.project, model, target, offered),
            directory=folder,
            settings=settings,
            is_mutual_tls=self._certificate is not None,
        )

    def _fetch(
        self, project: str, program: program_pb2.TritonProgram, folder: Path, offered: Offer
    ) -> list[ServedModel]:
        files = self._files(project)
        return [
            fetch(files, project, model, folder / str(number), offered) for number, model in enumerate(program.models)
        ]

    def _files(self, project: str) -> ModelFiles:
        store = ArtifactStore(self._surroundings.artifacts_of(project))
        # What lies on this machine is not kept on it a second time.
        return store if self._cache is None or store.is_local else self._cache.over(store)


async def _pass_on(control: SliceControl, replica: TritonReplica) -> None:
    await control.stop.asked()
    replica.stop(control.stop.grace_s)


def _devices(order: SliceOrder, surroundings: Surroundings) -> list[str]:
    """The real accelerators of a slice, as CUDA names them."""
    return [surroundings.device_uuids[index] for index in order.devices if index in surroundings.device_uuids]


def _tell(control: SliceControl, event: ReplicaEvent, facts: Mapping[str, str]) -> None:
    if event.state is ReplicaState.READY:
        measured = {f"memory_bytes/{model}": str(size) for model, size in event.memory_bytes.items()}
        control.ready(event.endpoints, {**facts, **measured})
    elif event.state is ReplicaState.STARTING and event.restarts:
        control.running(event.detail)
    elif event.state is ReplicaState.STOPPING:
        control.running("it is being stopped")  # no longer ready: routes leave it while it still answers
