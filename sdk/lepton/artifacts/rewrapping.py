"""Wraps the data key of a stored artifact anew, while its bytes stay as they are.

The new form is written beside the artifact first, in a file that is named after the artifact's id and appears whole;
then the former form is wiped from the artifact's header, where the store is local. So a crash leaves one of the two, or
both; whoever reads meanwhile finds one; and an artifact that is stored again has another id, and so a file of its own.
Object stores cannot change a part of an object: there the former form stays, and is worth what its key is worth.
"""

import io
import os
from typing import Final

from lepton.artifacts.files import Files
from lepton.artifacts.keys import RotatingKeyProvider
from lepton.artifacts.sealing import HEADER, Header, tampered
from lepton.errors import FailedPrecondition

_MAGIC: Final = b"lepton.rewrapped/1\n"
_MOST: Final = 2048


def beside(path: str, artifact_id: bytes) -> str:
    """Where the data key of the artifact at `path` lies once it was wrapped anew."""
    return f"{path}.{artifact_id.hex()}"


def read_beside(files: Files, path: str, artifact_id: bytes) -> bytes | None:
    """The data key as it was wrapped anew; None when it was not."""
    place = beside(path, artifact_id)
    if files.size(place) is None:
        return None
    with files.open(place) as file:
        document = file.read(_MOST)
    if not document.startswith(_MAGIC):
        raise tampered("what lies beside it is no key")
    return document.removeprefix(_MAGIC)


def read_header(files: Files, path: str) -> Header:
    """The header of a sealed artifact. Raises FileNotFoundError, FailedPrecondition."""
    with files.open(path) as file:
        return Header.parse(file.read(HEADER))


def rewrap(files: Files, path: str, keys: RotatingKeyProvider, *, is_local: bool) -> bool:
    """Whether the artifact's data key is now wrapped by the current key, and by no other that is still stored there.

    False for what cannot be: artifacts of the first format, and those whose key is missing.
    """
    try:
        header = read_header(files, path)
    except FileNotFoundError:
        return True  # gone meanwhile
    if header.wrapped and keys.is_current(header.wrapped):
        return True
    if not header.artifact_id:
        return False
    later = read_beside(files, path, header.artifact_id)
    if later is None or not keys.is_current(later):
        try:
            data_key = header.data_key(keys, lambda _: later)
        except FailedPrecondition:
            return False
        files.write(beside(path, header.artifact_id), io.BytesIO(_MAGIC + keys.wrap(data_key)))
    if header.wrapped and is_local:
        _wipe(path, header)
    return True


def _wipe(path: str, header: Header) -> None:
    """Overwrite the wrapped key in an artifact's header; when it was stored stays as it was."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if Header.parse(os.pread(file, HEADER, 0)) == header:  # else it was stored again
            os.pwrite(file, bytes(HEADER - len(header.bound)), len(header.bound))
            os.fsync(file)
            os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    finally:
        os.close(file)
