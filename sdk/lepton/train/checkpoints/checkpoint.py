"""A stored checkpoint: read as a whole, tensor by tensor, or into a state that exists, at any number of ranks."""

import json
import math
from collections.abc import Callable, Mapping, MutableMapping
from functools import cached_property
from typing import Any, Final

import torch

from lepton.artifacts import ArtifactStore
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.train.checkpoints.manifest import ITEM_BYTES, TREE, Box, Manifest, Piece, Position, StoredTensor
from lepton.train.checkpoints.memory import DTYPES, holding
from lepton.train.checkpoints.tree import Node, children, rebuild

_TYPES: Final = {name: dtype for dtype, name in DTYPES.items()}


class Checkpoint:
    """A checkpoint in the store: where the run was, and its state; a file is opened, and verified, when needed."""

    def __init__(self, store: ArtifactStore, project: str, digest: str) -> None:
        """Reads the manifest. Raises NotFound, FailedPrecondition, InvalidArgument."""
        self._store, self._project = store, project
        self.digest = digest
        self.manifest = Manifest.parse(store.read(project, digest))
        self._files: dict[int, memoryview] = {}

    @property
    def position(self) -> Position:
        """How far the run had come."""
        return self.manifest.position

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """The whole state as it was saved, on the CPU, every tensor whole."""
        state: Mapping[str, Any] = rebuild(self._tree, self.read)
        return state

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all tensors: their keys from the top, joined by `/`."""
        return tuple(self._tensors)

    def read(self, path: str) -> torch.Tensor:
        """One tensor, whole. Raises FailedPrecondition when the checkpoint has none of that path, or is damaged."""
        stored = self._stored(path)
        whole = torch.empty(stored.shape, dtype=_TYPES[stored.dtype])
        self._fill(whole, (0,) * whole.dim(), stored)
        return whole

    def load_into(self, state: MutableMapping[str, Any]) -> None:
        """Brings a state to what was saved: tensors are filled in place (of a DTensor this rank's shard, read as far as
        it is needed), other values replaced.

        What the state lacks is left out. Raises FailedPrecondition when the checkpoint lacks something or has it in
        another shape.
        """
        with torch.no_grad():
            for key, node in children(self._tree).items():
                if key in state:
                    state[key] = self._loaded(state[key], node, str(key))
            self._check_known(state, self._tree, "")

    def verify(self, indices: Callable[[int], bool] = lambda _: True) -> None:
        """Reads the files of these numbers through. Raises NotFound or FailedPrecondition when one is not whole."""
        for index, file in enumerate(self.manifest.files):
            if indices(index):
                self._store.verify(self._project, file.digest)

    def _loaded(self, old: Any, node: Node, path: str) -> Any:
        if isinstance(old, torch.Tensor):
            if "tensor" not in node:
                raise self._unlike(path, "is not a tensor there")
            self._load_tensor(path, old, self._stored(node["tensor"]))
            return old
        if isinstance(old, MutableMapping) and "map" in node:
            for key, below in node["map"]:
                if key in old:
                    old[key] = self._loaded(old[key], below, f"{path}/{key}")
            self._check_known(old, node, path)
            return old
        if isinstance(old, list | tuple) and ("list" in node or "tuple" in node):
            below = list(children(node).values())
            if any(isinstance(item, torch.Tensor | Mapping | list) for item in old):
                if len(old) != len(below):
                    raise self._unlike(path, f"has {len(below)} places there")
                return type(old)(
                    self._loaded(one, each, f"{path}/{n}") for n, (one, each) in enumerate(zip(old, below, strict=True))
                )
        return rebuild(node, self.read)

    def _load_tensor(self, path: str, tensor: torch.Tensor, stored: StoredTensor) -> None:
        if tuple(tensor.shape) != stored.shape:
            raise self._unlike(path, f"has the shape {list(stored.shape)} there, not {list(tensor.shape)}")
        held = holding(path, tensor)
        if held.local.numel():
            self._fill(held.local, held.offset, stored)

    def _check_known(self, state: Mapping[str, Any], node: Node, path: str) -> None:
        known = children(node)
        for key in state:
            if key not in known:
                raise self._unlike(f"{path}/{key}" if path else str(key), "is missing there")

    def _fill(self, target: torch.Tensor, offset: Box, stored: StoredTensor) -> None:
        """Copies the box of a tensor that begins at `offset` and has the shape of `target`."""
        for piece in stored.pieces:
            overlap = [
                (max(begin, other), min(begin + size, other + length))
                for begin, size, other, length in zip(offset, target.shape, piece.offset, piece.shape, strict=True)
            ]
            if any(begin >= end for begin, end in overlap) or not math.prod(piece.shape):
                continue
            within = tuple(
                slice(begin - start, end - start) for (begin, end), start in zip(overlap, offset, strict=True)
            )
            source = tuple(
                slice(begin - start, end - start) for (begin, end), start in zip(overlap, piece.offset, strict=True)
            )
            target[within].copy_(self._piece(piece, stored.dtype)[source])

    def _piece(self, piece: Piece, dtype: str) -> torch.Tensor:
        count = math.prod(piece.shape)
        content = self._file(piece.file)[piece.begin : piece.begin + count * ITEM_BYTES[dtype]]
        return torch.frombuffer(content, dtype=_TYPES[dtype], count=count).reshape(piece.shape)

    def _file(self, index: int) -> memoryview:
        if index not in self._files:
            file = self.manifest.files[index]
            content = self._store.mapped(self._project, file.digest)
            if len(content) != file.size:
                raise InvalidArgument("CHECKPOINT_INVALID", problem=f"{file.name} has not the size that is listed")
            self._files[index] = content
        return self._files[index]

    def _stored(self, path: str) -> StoredTensor:
        stored = self._tensors.get(path)
        if stored is None:
            raise self._unlike(path, "is missing there")
        return stored

    @cached_property
    def _tree(self) -> Node:
        index = next((number for number, file in enumerate(self.manifest.files) if file.name == TREE), None)
        if index is None:
            raise InvalidArgument("CHECKPOINT_INVALID", problem=f"it has no {TREE}")
        try:
            tree: Node = json.loads(bytes(self._file(index)))
            return tree if self.manifest.version > 1 else {"map": [[name, node] for name, node in tree.items()]}
        except (ValueError, AttributeError, RecursionError) as error:
            raise InvalidArgument("CHECKPOINT_INVALID", problem=f"its {TREE} is malformed") from error

    @cached_property
    def _tensors(self) -> Mapping[str, StoredTensor]:
        if self.manifest.version > 1:
            return self.manifest.tensors
        tensors: dict[str, StoredTensor] = {}
        for index, file in enumerate(self.manifest.files):
            if file.name != TREE:
                tensors |= _listed(index, self._file(index))
        return tensors

    def _unlike(self, path: str, problem: str) -> FailedPrecondition:
        return FailedPrecondition("CHECKPOINT_DIFFERS", checkpoint=self.digest, path=path, problem=problem)


def _listed(index: int, content: memoryview) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file of version 1, as its header lists them."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(bytes(content[8 : 8 + length]))
        found = {}
        for path, entry in header.items():
            if path != "__metadata__":
                shape = tuple(entry["shape"])
                begin = 8 + length + entry["data_offsets"][0]
                piece = Piece(file=index, begin=begin, offset=(0,) * len(shape), shape=shape)
                found[path] = StoredTensor(dtype=entry["dtype"], shape=shape, pieces=(piece,))
        return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidArgument("CHECKPOINT_INVALID", problem=str(error)) from error
