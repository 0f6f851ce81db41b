"""The manifest: what a checkpoint consists of, itself an artifact whose digest names the checkpoint.

    {"format": "lepton.checkpoint/2", "step": 46, "epoch": 1, "samples": 2876, "world_size": 4,
     "config_digest": "sha256:..",
     "files": [{"name": "rank-0.safetensors", "digest": "sha256:..", "size": 139264},
               {"name": "rank-1.safetensors", "digest": "sha256:..", "size": 139264},
               {"name": "tree.json", "digest": "sha256:..", "size": 2048}],
     "tensors": {"model/weight": {"dtype": "F32", "shape": [8, 4], "pieces": [
                     {"file": 0, "begin": 232, "offset": [0, 0], "shape": [4, 4]},
                     {"file": 1, "begin": 232, "offset": [4, 0], "shape": [4, 4]}]}}}

A piece is a box of its tensor: where the box begins, its shape, and where its bytes (row by row, little-endian) begin
in its file. The files are ordinary safetensors files too. `tree.json` holds the nesting and all plain values, so
nothing is ever pickled. `samples` is the sampler's position; `config_digest` names the run's configuration. Version 1
has no `tensors`: its files hold whole tensors under their paths.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from lepton.artifacts import parse_digest
from lepton.errors import InvalidArgument

FORMAT: Final = "lepton.checkpoint/2"
FIRST_FORMAT: Final = "lepton.checkpoint/1"
TREE: Final = "tree.json"

Box = tuple[int, ...]

ITEM_BYTES: Final[Mapping[str, int]] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4,
    "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of one element, by safetensors' names."""


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
class Piece:
    """A box of a tensor: it begins at `offset` and has `shape`; its bytes begin at `begin` in file number `file`."""

    file: int
    begin: int
    offset: Box
    shape: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor of a checkpoint and the pieces that it lies in, which cover it without overlapping."""

    dtype: str
    shape: Box
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint consists of and where in the run it was taken."""

    position: Position
    world_size: int
    config_digest: str
    files: tuple[File, ...]
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    version: int = 2

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The manifest that the bytes hold; InvalidArgument when they hold none."""
        try:
            document = json.loads(data)
            if document["format"] not in (FORMAT, FIRST_FORMAT):
                raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
            files = tuple(
                File(name=str(file["name"]), digest=parse_digest(file["digest"]), size=int(file["size"]))
                for file in document["files"]
            )
            return cls(
                position=Position(step=document["step"], epoch=document["epoch"], samples=document["samples"]),
                world_size=document["world_size"],
                config_digest=document["config_digest"],
                files=files,
                tensors={path: _tensor(path, tensor, files) for path, tensor in document.get("tensors", {}).items()},
                version=2 if document["format"] == FORMAT else 1,
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InvalidArgument("CHECKPOINT_INVALID", problem=str(error)) from error

    def render(self) -> bytes:
        """The manifest's bytes; equal checkpoints give equal bytes, hence equal digests."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "step": self.position.step,
            "epoch": self.position.epoch,
            "samples": self.position.samples,
            "world_size": self.world_size,
            "config_digest": self.config_digest,
            "files": [{"name": file.name, "digest": file.digest, "size": file.size} for file in self.files],
            "tensors": {path: _document(tensor) for path, tensor in self.tensors.items()},
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _document(tensor: StoredTensor) -> dict[str, Any]:
    pieces = [
        {"file": piece.file, "begin": piece.begin, "offset": piece.offset, "shape": piece.shape}
        for piece in tensor.pieces
    ]
    return {"dtype": tensor.dtype, "shape": tensor.shape, "pieces": pieces}


def _tensor(path: str, document: Mapping[str, Any], files: tuple[File, ...]) -> StoredTensor:
    """A tensor whose pieces are inside their files and make up all of it; ValueError when they are not."""
    shape = _box(document["shape"])
    item = ITEM_BYTES[document["dtype"]]
    pieces = tuple(
        Piece(file=piece["file"], begin=piece["begin"], offset=_box(piece["offset"]), shape=_box(piece["shape"]))
        for piece in document["pieces"]
    )
    for piece in pieces:
        if not 0 <= piece.file < len(files):
            raise ValueError(f"{path} lies in a file that is not listed")
        if piece.begin < 0 or piece.begin + math.prod(piece.shape) * item > files[piece.file].size:
            raise ValueError(f"{path} lies outside its file")
        if len(piece.offset) != len(shape) or len(piece.shape) != len(shape):
            raise ValueError(f"{path} has a piece of other dimensions")
        if any(begin + size > whole for begin, size, whole in zip(piece.offset, piece.shape, shape, strict=True)):
            raise ValueError(f"{path} has a piece that sticks out")
    if sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
        raise ValueError(f"the pieces of {path} do not make up the whole")
    return StoredTensor(dtype=document["dtype"], shape=shape, pieces=pieces)


def _box(numbers: Any) -> Box:
    box = tuple(numbers)
    if not all(type(number) is int and number >= 0 for number in box):
        raise ValueError(f"{numbers!r} are no sizes")
    return box
