"""Joins the files of a batch prediction's shards to one, in their order."""

import io
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np


class Joiner(Protocol):
    """Takes the shards' files one after the other. A context manager: without `finish` nothing appears."""

    def append(self, data: bytes) -> None:
        """The next shard."""
        ...

    def finish(self) -> None:
        """Puts the whole file in its place."""
        ...

    def __enter__(self) -> Self:
        """Opens it."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes what was not finished."""
        ...


def joiner(form: str, path: Path) -> Joiner:
    """What joins files of a form (`NPZ`, `JSONL`) into `path`."""
    return Lines(path) if form == "JSONL" else Archive(path)


class Lines:
    """JSON lines, as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        descriptor, self._aside = tempfile.mkstemp(dir=path.parent, prefix=".downloading-")
        self._file = os.fdopen(descriptor, "wb")

    def append(self, data: bytes) -> None:
        """Behind the others."""
        self._file.write(data)

    def finish(self) -> None:
        """Renames it."""
        self._file.close()
        Path(self._aside).rename(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            Path(self._aside).unlink()


class Archive(Lines):
    """NPZ: the arrays of all shards, one behind the other; they are held in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._parts: list[dict[str, Any]] = []

    def append(self, data: bytes) -> None:
        """Reads its arrays."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            self._parts.append({name: archive[name] for name in archive.files})

    def finish(self) -> None:
        """Writes the joined arrays."""
        filled = [part for part in self._parts if len(part["row"])] or self._parts[:1]
        arrays: dict[str, Any] = {name: np.concatenate([part[name] for part in filled]) for name in filled[0]}
        np.savez(self._file, **arrays)
        super().finish()
