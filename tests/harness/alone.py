"""One rank without an agent, in this process: a recipe is trained to its end, and what it said is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from lepton import data, models
from lepton.artifacts import ArtifactStore
from lepton.models import ModelPackage
from lepton.train.checkpoints import Saver
from lepton.train.environment import RankEnvironment
from lepton.train.rank_session import RankSession
from lepton.train.reporter import Reporter
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.training import train

PROJECT = "acme"


class Recorder(Reporter):
    """A line to no agent: everything is kept, and every commit accepted."""

    def __init__(self) -> None:
        super().__init__(None)
        self.lines: list[dict[str, Any]] = []

    def _send(self, line: Mapping[str, Any]) -> None:
        self.lines.append(dict(line))

    def package(self, digest: str, *, metrics: Mapping[str, float]) -> Any:
        """Keeps the package, which without an agent is not sent."""
        self.lines.append({"kind": "package", "digest": digest, "metrics": dict(metrics)})
        return super().package(digest, metrics=metrics)

    def checkpoint(self, manifest: str, *, step: int, metrics: Mapping[str, float]) -> Any:
        """Keeps the checkpoint."""
        self.lines.append({"kind": "checkpoint", "manifest": manifest, "step": step, "metrics": dict(metrics)})
        return super().checkpoint(manifest, step=step, metrics=metrics)


class Alone(RankSession):
    """A rank that forks nothing: this process has threads of other tests, beside which a fork may stand still."""

    @cached_property
    def saver(self) -> Saver:
        """Copies what it saves."""
        return Saver(self.store, self.environment.project, rank=0, world_size=1, reporter=self.reporter, can_fork=False)


@dataclass
class Trained:
    """What a run left."""

    store: ArtifactStore
    spec: TrainingSpec
    is_finished: bool
    lines: list[dict[str, Any]] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The lines of that kind."""
        return [line for line in self.lines if line["kind"] == kind]

    def curve(self, metric: str) -> list[float]:
        """A metric's values, in the order in which they were reported."""
        return [line["values"][metric] for line in self.of_kind("metrics") if metric in line["values"]]

    @property
    def digest(self) -> str:
        """The package's digest."""
        digest: str = self.of_kind("package")[-1]["digest"]
        return digest

    @property
    def metrics(self) -> dict[str, float]:
        """The package's metrics."""
        metrics: dict[str, float] = self.of_kind("package")[-1]["metrics"]
        return metrics

    @property
    def package(self) -> ModelPackage:
        """The package."""
        return ModelPackage.parse(self.store.read(PROJECT, self.digest))

    def file(self, name: str) -> bytes:
        """A file of the package."""
        return self.store.read(PROJECT, self.package.files[name])

    def model(self) -> torch.nn.Module:
        """The package's model."""
        model = models.build(self.package.architecture)
        model.load_state_dict(load(self.file("weights.safetensors")))
        return model.eval()


def train_alone(folder: Path, dataset: data.AnyDataset, resume: str = "", **settings: Any) -> Trained:
    """Trains on the dataset; a test that names the same folder twice has the artifacts of both runs in it."""
    store = ArtifactStore(f"file://{folder}/artifacts")
    spec = TrainingSpec.of(project=PROJECT, dataset=store.put_bytes(PROJECT, data.to_safetensors(dataset)), **settings)
    environ = {
        "LEPTON_ARTIFACTS": store.url,
        "LEPTON_PROJECT": PROJECT,
        "LEPTON_JOB": f"projects/{PROJECT}/jobs/alone",
        "LEPTON_RESUME": resume,
    }
    session = Alone(RankEnvironment.parse(environ))
    recorder = Recorder()
    session.__dict__["reporter"] = recorder
    is_finished = train(spec, session)
    return Trained(store=store, spec=spec, is_finished=is_finished, lines=recorder.lines)
