"""How large and how deep a model file may be before it is refused, and the errors that say so."""

from dataclasses import dataclass
from typing import Final

from lepton.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what is read of a model file."""

    file_bytes: int = 16 << 30
    """One file of a package."""
    onnx_bytes: int = (2 << 30) - 1
    """Protobuf's own bound on one message."""
    header_bytes: int = 32 << 20
    """The header of a safetensors file."""
    tensors: int = 200_000
    nodes: int = 200_000
    """Of an ONNX graph, those of its subgraphs and of its functions, written out, included."""
    depth: int = 32
    """Of graphs within graphs, and of functions that call functions."""
    rank: int = 16
    dimension: int = 1 << 40
    name_bytes: int = 4096
    entries: int = 100_000
    """Of a zip archive."""
    ratio: int = 200
    """How often its own size an archive may unpack to."""
    ir_version: tuple[int, int] = (4, 14)
    opset: tuple[int, int] = (7, 28)
    """The ONNX operator sets that the runtimes of this release run."""


LIMITS: Final = Limits()


def invalid(file: str, kind: str, problem: str) -> InvalidArgument:
    """A file that is not what it claims to be."""
    return InvalidArgument("MODEL_FILE_INVALID", file=file[:200], kind=kind, problem=problem)


def pickled(file: str, what: str) -> InvalidArgument:
    """A file that would run code when it is read."""
    return InvalidArgument("MODEL_FILE_PICKLED", file=file[:200], what=what)
