"""One rendered form of a model: what runs it, what that needs of a node, and its files."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lepton.repository import Requirements
from services.inference.triton_repository.options import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A variant of a repository before its files are stored."""

    engine: Engine
    files: Mapping[str, bytes | str]
    """By path below the model's own folder: bytes, or the digest of an artifact that is stored already."""
    requires: Requirements = field(default_factory=Requirements)
    key: str = ""
    """The engine's key; empty for ONNX Runtime."""
    golden: str = ""
    """Digest of golden requests with this form's own answers; empty = those of the model."""
