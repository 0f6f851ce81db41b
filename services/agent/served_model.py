"""One model that a server serves, and its folder in the server's repository."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lepton.golden import Golden
from lepton.repository import CONFIG


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedModel:
    """One model: its repository files by path below the model's folder, and the golden samples that prove it."""

    name: str
    files: Mapping[str, bytes | Path]
    golden: Golden
    engine: str = ""
    """What runs it, with the engine's key if it has one."""

    def config(self) -> Any:
        """Its configuration (`inference.ModelConfig`)."""
        content = self.files[CONFIG]
        text = content.read_text() if isinstance(content, Path) else content.decode()
        return text_format.Parse(text, model_config_pb2.ModelConfig())


def materialise(repository: Path, models: Sequence[ServedModel]) -> None:
    """Writes the repository anew; a path that leaves its model's folder is refused."""
    shutil.rmtree(repository, ignore_errors=True)
    repository.mkdir(parents=True)
    for model in models:
        write_model(repository, model)


def write_model(repository: Path, model: ServedModel) -> None:
    """Writes one model's folder anew; ValueError for a path that leaves it."""
    root = repository / model.name
    if root.resolve().parent != repository.resolve():
        raise ValueError(f"the model name {model.name!r} leaves the repository")
    shutil.rmtree(root, ignore_errors=True)
    for path, content in model.files.items():
        target = root / path
        if not target.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"model {model.name}: the path {path!r} leaves the repository")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
