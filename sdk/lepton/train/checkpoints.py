"""Checkpoints: a training state as content-addressed safetensors files under a manifest, for any world size.

The manifest, itself an artifact whose digest names the checkpoint:

    {"format": "lepton.checkpoint/1", "step": 46, "epoch": 1, "samples": 2876, "world_size": 4,
     "config_digest": "sha256:..",
     "files": [{"name": "model.safetensors", "digest": "sha256:..", "size": 139264},
               {"name": "optimizer.safetensors", "digest": "sha256:..", "size": 278528},
               {"name": "tree.json", "digest": "sha256:..", "size": 2048}]}

One safetensors file per top-level entry of the state, holding its tensors; `tree.json` holds the nesting and all plain
values, so nothing is ever pickled. `samples` is the sampler's position; `config_digest` names the run's configuration.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from lepton.artifacts import ArtifactStore, parse_digest
from lepton.errors import InvalidArgument

FORMAT: Final = "lepton.checkpoint/1"
TREE: Final = "tree.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a run has come: steps made, epochs completed, samples consumed."""

    step: int
    epoch: int
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a checkpoint."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint consists of and where in the run it was taken."""

    position: Position
    world_size: int
    config_digest: str
    files: tuple[File, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The manifest that the bytes hold; InvalidArgument when they hold none."""
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
            return cls(
                position=Position(step=document["step"], epoch=document["epoch"], samples=document["samples"]),
                world_size=document["world_size"],
                config_digest=document["config_digest"],
                files=tuple(
                    File(name=file["name"], digest=parse_digest(file["digest"]), size=file["size"])
                    for file in document["files"]
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument("CHECKPOINT_INVALID", problem=str(error)) from error

    def render(self) -> bytes:
        """The manifest's bytes."""
        document = {
            "format": FORMAT,
            "step": self.position.step,
            "epoch": self.position.epoch,
            "samples": self.position.samples,
            "world_size": self.world_size,
            "config_digest": self.config_digest,
            "files": [{"name": file.name, "digest": file.digest, "size": file.size} for file in self.files],
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint: where the run was, and its state."""

    digest: str
    manifest: Manifest
    state: Mapping[str, Any]

    @property
    def position(self) -> Position:
        """How far the run had come."""
        return self.manifest.position


def save(
    store: ArtifactStore,
    project: str,
    state: Mapping[str, Any],
    *,
    position: Position,
    world_size: int,
    config_digest: str,
) -> str:
    """Stores the state, manifest last, and returns the manifest's digest; a crash in between leaves no checkpoint."""
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    tree = {name: _flatten(value, name, tensors.setdefault(name, {})) for name, value in state.items()}
    contents = {f"{name}.safetensors": save_tensors(group) for name, group in tensors.items() if group}
    contents[TREE] = json.dumps(tree, separators=(",", ":")).encode()
    files = tuple(
        File(name=name, digest=store.put_bytes(project, content), size=len(content))
        for name, content in contents.items()
    )
    manifest = Manifest(position=position, world_size=world_size, config_digest=config_digest, files=files)
    return store.put_bytes(project, manifest.render())


def load(store: ArtifactStore, project: str, digest: str) -> Checkpoint:
    """The checkpoint of that digest, every file verified."""
    manifest = Manifest.parse(store.read(project, digest))
    contents = {file.name: store.read(project, file.digest) for file in manifest.files}
    tensors: dict[str, torch.Tensor] = {}
    for name, content in contents.items():
        if name != TREE:
            tensors.update(load_tensors(content))
    tree = json.loads(contents[TREE])
    return Checkpoint(
        digest=digest, manifest=manifest, state={name: _rebuild(node, tensors) for name, node in tree.items()}
    )


def _flatten(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"map": [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise InvalidArgument(
        "INVALID_FIELD", fields={f"state.{path}": f"is a {type(value).__name__}; keep tensors, numbers and texts only"}
    )


def _rebuild(node: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "map" in node:
        return {key: _rebuild(item, tensors) for key, item in node["map"]}
    if "list" in node:
        return [_rebuild(item, tensors) for item in node["list"]]
    if "tuple" in node:
        return tuple(_rebuild(item, tensors) for item in node["tuple"])
    return node["value"]
