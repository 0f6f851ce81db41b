"""Runs Triton programs: a serving replica with its models, ready only when golden inference has passed."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from lepton.artifacts import ArtifactStore
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.golden import Golden
from lepton.scheduler.v1 import program_pb2, workload_pb2
from services.agent.config import AgentConfig
from services.agent.order import SliceOrder
from services.agent.runner import Ending, SliceControl, Surroundings
from services.agent.triton import (
    ReplicaEvent,
    ReplicaFailed,
    ReplicaSettings,
    ReplicaState,
    ServedModel,
    TritonReplica,
    TritonTools,
)
from services.agent.work import WorkFolders

Slice = workload_pb2.Slice
_CONFIG = "config.pbtxt"


class TritonRunner:
    """Fetches what a replica serves and keeps it serving."""

    def __init__(
        self, *, surroundings: Surroundings, folders: WorkFolders, tools: TritonTools | None, trace_url: str
    ) -> None:
        self._surroundings, self._folders, self._tools, self._trace_url = surroundings, folders, tools, trace_url

    async def run(self, order: SliceOrder, control: SliceControl) -> Ending:
        """Serve until asked to stop."""
        if self._tools is None:
            raise FailedPrecondition("TRITON_NOT_CONFIGURED", node=order.node)
        async with self._folders.open(order.folder) as folder:
            # Reads whole models from the store.
            models = await asyncio.to_thread(self._fetch, order.project, order.program.triton, folder / "files")

            async def observe(event: ReplicaEvent) -> None:
                _tell(control, event)

            replica = TritonReplica(
                tools=self._tools,
                directory=folder / "triton",
                models=models,
                observe=observe,
                settings=ReplicaSettings(trace_url=self._trace_url),
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

    def _fetch(self, project: str, program: program_pb2.TritonProgram, folder: Path) -> list[ServedModel]:
        store = ArtifactStore(self._surroundings.artifacts)
        return [_model(store, project, model, folder / str(number)) for number, model in enumerate(program.models)]


def tools(config: AgentConfig) -> TritonTools | None:
    """Where Triton lies, if it does."""
    paths = config.triton
    if paths is None:
        return None
    return TritonTools(server=paths.server, backends=paths.backends, libs=paths.libs, python_path=paths.python_path)


def _model(store: ArtifactStore, project: str, model: program_pb2.ServedModel, folder: Path) -> ServedModel:
    try:
        manifest = json.loads(store.read(project, model.repository))
        digests: Mapping[str, str] = {str(path): str(digest) for path, digest in manifest.items()}
    except (ValueError, AttributeError) as error:
        raise _invalid(f"is not a repository manifest: {error}") from error
    if _CONFIG not in digests:
        raise _invalid(f"holds no {_CONFIG}")
    files: dict[str, bytes | Path] = {}
    for number, (path, digest) in enumerate(digests.items()):
        target = folder / str(number)
        store.fetch_to(project, digest, target)
        files[path] = target
    config = (folder / str(list(digests).index(_CONFIG))).read_text()
    return ServedModel(name=model.name, files=files, golden=Golden.parse(store.read(project, model.golden), config))


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={"repository": problem})


async def _pass_on(control: SliceControl, replica: TritonReplica) -> None:
    await control.stop.asked()
    replica.stop(control.stop.grace_s)


def _tell(control: SliceControl, event: ReplicaEvent) -> None:
    if event.state is ReplicaState.READY:
        control.ready(event.endpoints)
    elif event.state is ReplicaState.STARTING and event.restarts:
        control.running(event.detail)
