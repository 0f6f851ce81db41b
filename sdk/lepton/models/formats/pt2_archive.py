"""The archive that torch.export.save writes (`.pt2`), checked without torch and without unpickling.

Such an archive is a zip file of raw weights and JSON, with one exception: its sample inputs are a pickle, which
torch.export.load executes. `without_pickles` writes the same archive with the sample inputs left empty, which torch
reads as none, and its program cleaned (pt2_program.py); whatever else would be unpickled (custom objects, pickled
weights, old constants) is refused.
Layout: torch/csrc/export/pt2_archive_constants.h.
"""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO, Final

from lepton.errors import InvalidArgument
from lepton.models.formats.limits import LIMITS, Limits, invalid, pickled
from lepton.models.formats.pt2_program import check_program, cleaned
from lepton.models.formats.sniff import HEAD, Kind, refuse_pickle

_KIND: Final = "pt2 archive"
_SAMPLES: Final = "data/sample_inputs/"
_MODELS: Final = "models/"
_COMPILED: Final = ("data/aotinductor/", "data/executorch/", "data/mtia", "xl_model_weights/")
_UNPICKLED: Final = ("custom_obj_", "opaque_obj_")
_BLOCK: Final = 1 << 20
_JSON_BYTES: Final = 64 << 20
# What zipfile raises for an archive that is damaged, encrypted, or packed in a way that it does not know.
_UNREADABLE: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(NotImplementedError, RuntimeError, EOFError, OSError, ValueError, IndexError),
)


def check_pt2(archive: BinaryIO, file: str, *, limits: Limits = LIMITS, is_compiled: bool = False) -> None:
    """Checks an archive that a package holds: nothing in it is pickled. Raises InvalidArgument.

    With `is_compiled` it may be an engine (AOTInductor), which holds machine code; without, an exported program alone.
    """
    with _readable(file):
        for name, info, opened in _entries(archive, file, limits):
            if name.startswith(_SAMPLES) and info.file_size:
                raise pickled(f"{file}:{name}", "a pickle of sample inputs, which `lepton models import` leaves out")
            _check_entry(name, info, opened, file, is_compiled=is_compiled)
        if not is_compiled:
            check_program(_program(archive, file), file)


def without_pickles(archive: BinaryIO, file: str, target: BinaryIO, *, limits: Limits = LIMITS) -> list[str]:
    """Writes the archive to `target`, sample inputs left empty; the names of what was left out. Raises as check_pt2."""
    left_out = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for name, info, opened in _entries(archive, file, limits):
            entry = zipfile.ZipInfo(info.filename, (1980, 1, 1, 0, 0, 0))
            if name.startswith(_SAMPLES):
                left_out.append(name)
                copy.writestr(entry, b"")
                continue
            _check_entry(name, info, opened, file, is_compiled=False)
            if name.startswith(_MODELS):
                copy.writestr(entry, cleaned(_program(archive, file), file))
                continue
            opened.seek(0)
            _align(entry, target)
            with copy.open(entry, "w", force_zip64=info.file_size >= 1 << 31) as written:
                while block := opened.read(_BLOCK):
                    written.write(block)
    _program(archive, file)
    return left_out


def _entries(archive: BinaryIO, file: str, limits: Limits) -> Iterator[tuple[str, zipfile.ZipInfo, IO[bytes]]]:
    """Every entry, its name below the archive's own folder; sizes and names are checked before anything is read."""
    with _readable(file), zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
        _check_directory(infos, file, limits)
        archive.seek(0, io.SEEK_END)
        unpacked, size = sum(info.file_size for info in infos), archive.tell()
        if unpacked > limits.file_bytes or unpacked > limits.ratio * max(size, 1):
            raise invalid(file, _KIND, f"it unpacks from {size} to {unpacked} bytes")
        for info in infos:
            with opened.open(info) as content:
                yield info.filename.partition("/")[2], info, content


def _check_directory(infos: list[zipfile.ZipInfo], file: str, limits: Limits) -> None:
    if not infos or len(infos) > limits.entries:
        raise invalid(file, _KIND, f"it has {len(infos)} entries, {limits.entries} at the most are allowed")
    roots, names = set(), set()
    for info in infos:
        path = PurePosixPath(info.filename)
        is_plain = not path.is_absolute() and ".." not in path.parts and "\\" not in info.filename
        if not is_plain or "\0" in info.orig_filename or len(info.filename) > limits.name_bytes:
            raise invalid(file, _KIND, f"the entry {info.filename[:100]!r} leaves the archive")
        if info.flag_bits & 0x1:
            raise invalid(file, _KIND, f"the entry {info.filename[:100]!r} is encrypted")
        if info.filename in names:
            raise invalid(file, _KIND, f"the entry {info.filename[:100]!r} is there twice")
        names.add(info.filename)
        roots.add(path.parts[0])
    if len(roots) != 1:
        raise invalid(file, _KIND, "it has no single folder at its top")


def _check_entry(name: str, info: zipfile.ZipInfo, opened: IO[bytes], file: str, *, is_compiled: bool) -> None:
    where, base = f"{file}:{name}", name.rpartition("/")[2]
    if base.endswith((".pkl", ".pickle")) or base.startswith(_UNPICKLED):
        raise pickled(where, "an object that is unpickled")
    if name.startswith("data/constants/") and base.endswith(".pt"):
        raise pickled(where, "constants in the old, pickled form")
    if name.startswith(_COMPILED) and not is_compiled:
        raise invalid(file, _KIND, f"{name[:100]!r} is compiled code; save the exported program (torch.export.save)")
    if not info.file_size:
        return
    if base.endswith("_config.json"):
        _check_config(opened, info, where)
    elif not name.startswith(("data/weights/weight_", "data/constants/tensor_")):  # raw numbers may look like anything
        head = opened.read(HEAD)
        if refuse_pickle(head, where) is Kind.ZIP:
            raise pickled(where, "a zip file as torch.save writes it")


def _check_config(opened: IO[bytes], info: zipfile.ZipInfo, where: str) -> None:
    if info.file_size > _JSON_BYTES:
        raise invalid(where, _KIND, "it is too large")
    try:
        config: Any = json.loads(opened.read(_JSON_BYTES))["config"]
        entries = list(config.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise invalid(where, _KIND, "it is no configuration of weights") from error
    for name, payload in entries:
        is_known = isinstance(payload, dict) and isinstance(payload.get("path_name"), str)
        if not is_known or "/" in payload["path_name"] or payload["path_name"].startswith("."):
            raise invalid(where, _KIND, f"{str(name)[:80]!r} lies nowhere in the archive")
        if payload.get("use_pickle") or payload["path_name"].startswith(_UNPICKLED):
            raise pickled(where, f"pickled, at {str(name)[:80]!r}")


def _program(archive: BinaryIO, file: str) -> bytes:
    """The one program that torch.export.save has written."""
    with _readable(file), zipfile.ZipFile(archive) as opened:
        entries = {info.filename.partition("/")[2]: info for info in opened.infolist()}
        models = [name for name in entries if name.startswith(_MODELS) and name.endswith(".json")]
        if "archive_format" not in entries or len(models) != 1:
            raise invalid(file, _KIND, "it is not what torch.export.save writes: one exported program")
        if entries[models[0]].file_size > _JSON_BYTES:
            raise invalid(file, _KIND, "its program is too large")
        return opened.read(entries[models[0]])


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """Makes a refusal of what zipfile raises where it reads."""
    try:
        yield
    except _UNREADABLE as error:
        if isinstance(error, InvalidArgument):
            raise
        raise invalid(file, _KIND, str(error)[:200] or "it is cut off") from error


def _align(entry: zipfile.ZipInfo, target: BinaryIO) -> None:
    """Begins the entry's bytes at a multiple of 64, as torch does: it maps weights where they lie."""
    header = 30 + len(entry.filename.encode()) + 4
    padding = -(target.tell() + header) % 64
    entry.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding
