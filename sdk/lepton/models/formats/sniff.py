"""What a file is, by its first bytes; its name is never believed.

The marks are those of the formats themselves: pickle protocol 2 and later begin with 0x80 and the protocol (Python,
Lib/pickletools.py); torch's legacy files are pickles of a magic number; what torch.save writes since 1.6 is a zip file
with a `data.pkl`; HDF5 and joblib's compressed pickles have marks of their own.
"""

import json
import re
from enum import StrEnum
from typing import Final

from lepton.models.formats.limits import pickled


class Kind(StrEnum):
    """What bytes turn out to be."""

    PICKLE = "pickle"
    ZIP = "zip"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    JSON = "json"
    HDF5 = "hdf5"
    COMPRESSED = "compressed"
    NUMPY = "numpy"
    OTHER = "other"


HEAD: Final = 4096
"""So many bytes are enough to know a file."""

_COMPRESSED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")
_OLD_PICKLE: Final = re.compile(
    rb"(\(?(lp|dp|tp|[\(\]\}]*c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n))|[IL]\d+L?\n|\(?c[\w.]+\n[\w.]+\n|[\]})]q.",
    re.DOTALL,
)


def kind_of(head: bytes) -> Kind:
    """What a file is that begins with these bytes (4096 of them, or all there are)."""
    if _is_pickle(head):
        return Kind.PICKLE
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return Kind.ZIP
    if head.startswith(b"\x93NUMPY"):
        return Kind.NUMPY
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Kind.HDF5
    if head.startswith(_COMPRESSED) or (head[:1] == b"\x78" and head[1:2] in b"\x01\x5e\x9c\xda"):
        return Kind.COMPRESSED
    if len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return Kind.SAFETENSORS
    if head.lstrip()[:1] in (b"{", b"["):
        return Kind.JSON
    if _is_onnx(head):
        return Kind.ONNX
    return Kind.OTHER


def refuse_pickle(head: bytes, file: str) -> Kind:
    """The kind of a file that is allowed into a package. Raises InvalidArgument (MODEL_FILE_PICKLED)."""
    kind = kind_of(head)
    if kind is Kind.PICKLE:
        raise pickled(file, "a pickle")
    if kind is Kind.COMPRESSED:
        raise pickled(file, "a compressed stream, as joblib and older tools write their pickles")
    if kind is Kind.NUMPY and b"'descr': '|O'" in head[:256]:
        raise pickled(file, "a NumPy array of pickled objects")
    return kind


def _is_pickle(head: bytes) -> bool:
    if len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return True
    # Protocols 0 and 1 have no mark: text that names a global, or begins a list or a dictionary, and is no JSON.
    return _OLD_PICKLE.match(head) is not None and not _is_json(head)


def _is_json(head: bytes) -> bool:
    try:
        json.loads(head)
    except ValueError:
        return False
    return True


def _is_onnx(head: bytes) -> bool:
    """A ModelProto begins with its version, or with one of its strings, graph or operator sets."""
    return len(head) >= 2 and head[0] in (0x08, 0x12, 0x1A, 0x22, 0x32, 0x3A, 0x42, 0x72)
