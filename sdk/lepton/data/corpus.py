"""Plain text: the canonical dataset of the language model, and where it is read from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from lepton.data.limits import LARGEST_BYTES, Array, content_of, files_below, invalid
from lepton.errors import InvalidArgument

_LEAST: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Text as its UTF-8 bytes (uint8), one after the other; the last `given_test` bytes are the test set."""

    kind: ClassVar[str] = "corpus"
    content: Array
    given_test: int = 0

    def __post_init__(self) -> None:
        if self.content.ndim != 1 or self.content.dtype != np.uint8:
            raise InvalidArgument("DATASET_INVALID", problem="text must be one row of uint8 bytes")
        if len(self.content) - self.given_test < _LEAST or self.given_test < 0:
            raise InvalidArgument("DATASET_INVALID", problem=f"there are {len(self.content)} bytes of text; give more")

    def __len__(self) -> int:
        return len(self.content)

    def arrays(self) -> Mapping[str, Array]:
        """What the canonical file holds."""
        return {"content": self.content}

    def facts(self) -> Mapping[str, Any]:
        """What it says beside the arrays."""
        return {"given_test": self.given_test}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> Self:
        """The dataset of a canonical file."""
        return cls(content=arrays["content"], given_test=int(facts.get("given_test", 0)))


def read_corpus(path: Path) -> Corpus:
    """A text file, or all .txt files of a folder in the order of their names; `test.txt` is the test set."""
    if not path.is_dir():
        return Corpus(content=_bytes(path, [path]))
    files = files_below(path, (".txt", ".md"))
    if not files:
        raise invalid(path, "holds no .txt file; put the text into one")
    test = [file for file in files if file.stem == "test"]
    train = [file for file in files if file.stem != "test"]
    if not train:
        raise invalid(path, "holds test.txt only; put the text to learn from beside it")
    content, held_out = _bytes(path, train), _bytes(path, test)
    return Corpus(content=np.concatenate([content, held_out]), given_test=len(held_out))


def _bytes(path: Path, files: list[Path]) -> Array:
    parts: list[bytes] = []
    for file in files:
        parts.append(content_of(file))
        if b"\0" in parts[-1][:4096]:
            raise invalid(file, "is no text; give UTF-8 text")
        if sum(map(len, parts)) > LARGEST_BYTES:
            raise invalid(path, f"holds more than {LARGEST_BYTES >> 20} MiB of text; give a part of it")
    return np.frombuffer(b"\n".join(parts), np.uint8)
