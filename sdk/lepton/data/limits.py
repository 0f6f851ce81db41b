"""What data may be at most, and reading files within that, so that no file uses up this process's memory."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lepton.errors import InvalidArgument, NotFound

Array = npt.NDArray[Any]
LARGEST_BYTES: Final = 4 << 30  # of one file, unpacked
MOST_FILES: Final = 1_000_000
MOST_ROWS: Final = 50_000_000
MOST_CLASSES: Final = 65_536


def content_of(path: Path, largest: int = LARGEST_BYTES) -> bytes:
    """A file's bytes, unpacked when they are gzipped; NotFound, or InvalidArgument when they are too many."""
    if not path.is_file():
        raise NotFound("FILE_NOT_FOUND", file=str(path))
    if path.stat().st_size > largest:
        raise invalid(path, f"is larger than {largest >> 20} MiB; give a part of it")
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        with gzip.open(path) as packed:
            content = packed.read(largest + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise invalid(path, f"is a damaged gzip file ({error}); download it again") from error
    if len(content) > largest:
        raise invalid(path, f"unpacks to more than {largest >> 20} MiB; give a part of it")
    return content


def text_of(path: Path) -> str:
    """A file's text; InvalidArgument when it is not UTF-8."""
    try:
        return content_of(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(path, f"is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from error


def files_below(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The files of a folder with one of the endings, sorted; hidden ones are left out."""
    found: list[Path] = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.suffix.lower() not in endings or not path.is_file():
            continue
        found.append(path)
        if len(found) > MOST_FILES:
            raise invalid(folder, f"holds more than {MOST_FILES} files; give a part of it")
    return sorted(found)


def folders_below(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; hidden ones are left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def as_labels(names: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """Class numbers for class names, in the order of the names; names that are whole numbers in that order."""
    unique = set(names)
    are_numbers = all(name.isdecimal() and name.isascii() for name in unique)
    ordered = sorted(unique, key=lambda name: (int(name) if are_numbers else 0, name))
    number = {name: index for index, name in enumerate(ordered)}
    return np.array([number[name] for name in names], np.int64), tuple(ordered)


def invalid(path: Path | str, problem: str) -> InvalidArgument:
    """The error for data that cannot be used; `problem` says what is wrong and what to do."""
    return InvalidArgument("DATASET_INVALID", problem=f"{path} {problem}", file=str(path))
