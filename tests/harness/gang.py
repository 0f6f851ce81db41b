"""A gang of real ranks in one real launcher, with the test playing the agent: reports recorded, commits answered."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lepton import data
from lepton.artifacts import ArtifactStore
from services.agent.launcher import Exit, LauncherClient, RankHandle, RankLaunch, StoreHandle
from services.trainer.worker.spec import TrainingSpec

PROJECT = "acme"
WORKER = "services.trainer.worker"


@dataclass
class PlayedAgent:
    """What the agent saw of one gang; `on_report` sees every report as it arrives and may answer itself."""

    handles: list[RankHandle]
    store: StoreHandle
    began: float
    launches: list[RankLaunch] = field(default_factory=list)  # to start a rank again
    on_report: Callable[["PlayedAgent", int, Mapping[str, Any]], bool] | None = None
    reports: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    output: dict[int, str] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    first_step_s: float = 0.0

    async def finish(self) -> list[Exit]:
        """Plays to the end of every rank, then ends the store."""
        async with asyncio.TaskGroup() as tasks:
            for rank, handle in enumerate(self.handles):
                tasks.create_task(self._listen(rank, handle))
                tasks.create_task(self._read(self.output, rank, handle.stdout))
                tasks.create_task(self._read(self.errors, rank, handle.stderr))
            exits = [await handle.exited for handle in self.handles]
        for handle in self.handles:
            handle.close()
        self.store.kill()
        await self.store.exited
        return exits

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        """The reports of that kind, of all ranks."""
        return [report for _, report in self.reports if report["kind"] == kind]

    async def _listen(self, rank: int, handle: RankHandle) -> None:
        async for report in handle.reports():
            self.reports.append((rank, report))
            if report["kind"] == "state" and report["phase"] == "training" and not self.first_step_s:
                self.first_step_s = time.monotonic() - self.began
            if self.on_report is not None and self.on_report(self, rank, report):
                continue
            if "id" in report:
                await handle.ack(report["id"])

    @staticmethod
    async def _read(into: dict[int, str], rank: int, stream: asyncio.StreamReader) -> None:
        into[rank] = (await stream.read()).decode()


async def start_gang(
    launcher: LauncherClient,
    *,
    world_size: int,
    folder: Path,
    env: Mapping[str, str] | None = None,
    entry: str = WORKER,
    argv: tuple[str, ...] = (),
    generation: int = 1,
    on_report: Callable[[PlayedAgent, int, Mapping[str, Any]], bool] | None = None,
) -> PlayedAgent:
    """Starts a store and the ranks as an agent would."""
    began = time.monotonic()
    gang_id = f"{folder.name}.{generation}.{began}"
    store = await launcher.store(store_id=f"{gang_id}.store")
    host, port = store.endpoint.rsplit(":", 1)
    handles: list[RankHandle] = []
    launches: list[RankLaunch] = []
    for rank in range(world_size):
        place = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "GROUP_RANK": 0,
            "MASTER_ADDR": host, "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": f"run.{generation}",
            "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": 0, "OMP_NUM_THREADS": 1,
            "TORCHELASTIC_ERROR_FILE": folder / f"error-{rank}.json", "LEPTON_PROJECT": PROJECT,
            "LEPTON_JOB": f"projects/{PROJECT}/jobs/digits", "LEPTON_GENERATION": generation,
        }  # fmt: skip
        full = {**{name: str(value) for name, value in place.items()}, **(env or {})}
        launch = RankLaunch(rank_id=f"{gang_id}.{rank}", entry=entry, argv=argv, env=full, cwd=folder)
        launches.append(launch)
        handles.append(await launcher.start(launch))
    return PlayedAgent(handles=handles, store=store, began=began, launches=launches, on_report=on_report)


@dataclass(frozen=True)
class Workplace:
    """A store with a dataset in it, and what ranks need to find both."""

    folder: Path
    store: ArtifactStore
    dataset: str

    def env(self, spec: TrainingSpec, resume: str = "") -> dict[str, str]:
        """The variables that point ranks at this spec and checkpoint."""
        path = self.folder / f"spec-{spec.digest[-8:]}.json"
        path.write_bytes(spec.render())
        return {"LEPTON_ARTIFACTS": self.store.url, "LEPTON_SPEC": str(path), "LEPTON_RESUME": resume}

    def spec(self, **settings: Any) -> TrainingSpec:
        """A spec on this dataset."""
        return TrainingSpec.of(project=PROJECT, dataset=self.dataset, **settings)

    def read_json(self, digest: str) -> dict[str, Any]:
        """A manifest of the store."""
        document: dict[str, Any] = json.loads(self.store.read(PROJECT, digest))
        return document


def make_workplace(folder: Path, dataset: data.AnyDataset | None = None) -> Workplace:
    """A fresh store below `folder` holding the dataset, digits by default."""
    store = ArtifactStore(f"file://{folder}/artifacts")
    content = data.to_safetensors(data.digits() if dataset is None else dataset)
    return Workplace(folder=folder, store=store, dataset=store.put_bytes(PROJECT, content))


def agent_environ() -> dict[str, str]:
    """The environment that the played agent has."""
    return dict(os.environ)
