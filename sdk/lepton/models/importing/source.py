"""What is to be imported: one file, or a folder of them, recognised by its bytes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from lepton.errors import InvalidArgument, NotFound
from lepton.models.architecture import Architecture
from lepton.models.formats import LIMITS, Kind, check_pt2, refuse_pickle
from lepton.models.formats.limits import invalid
from lepton.models.formats.sniff import HEAD
from lepton.models.package import ONNX, PT2, WEIGHTS, Form, ModelPackage

MANIFEST: Final = "package.json"
ARCHITECTURE: Final = "architecture.json"
_KINDS: Final[Mapping[Kind, Form]] = {Kind.ONNX: Form.ONNX, Kind.SAFETENSORS: Form.WEIGHTS, Kind.ZIP: Form.PT2}
_CONVERT: Final[Mapping[Kind, str]] = {
    Kind.HDF5: "it is HDF5, as Keras writes it: export the model to ONNX (`tf2onnx`, or `model.export(format='onnx')`)",
    Kind.NUMPY: "it is a NumPy array; golden requests are given with --golden, weights as safetensors",
    Kind.JSON: "it is JSON; give the file of weights, and the architecture with --architecture",
    Kind.OTHER: "it is no ONNX file, no safetensors file and no exported program (.pt2)",
}
_PICKLES: Final = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".keras"})
_TOP_JSON_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model's file lies, what it is, and what lies beside it."""

    form: Form
    file: Path
    folder: Path
    """Data that an ONNX file keeps outside itself must lie in here."""
    architecture: Architecture | None = None
    package: ModelPackage | None = None
    """The manifest of a folder that `lepton models export` has written."""
    beside: Mapping[str, Path] = field(default_factory=dict)
    """Further files of such a folder, by their names in the package."""

    @classmethod
    def of(cls, path: Path, architecture: Path | None = None) -> Self:
        """What lies at a path. Raises NotFound, InvalidArgument (MODEL_FILE_...)."""
        if not path.exists():
            raise NotFound("FILE_NOT_FOUND", file=str(path))
        if path.is_dir():
            return cls._of_folder(path, architecture)
        return cls._of_file(path, path.parent, architecture)

    @classmethod
    def _of_file(cls, path: Path, folder: Path, architecture: Path | None) -> Self:
        form = _form(path)
        found = _architecture(architecture) if architecture is not None else None
        return cls(form=form, file=path, folder=folder, architecture=found)

    @classmethod
    def _of_folder(cls, folder: Path, architecture: Path | None) -> Self:
        if (folder / MANIFEST).is_file():
            return cls._of_package(folder)
        beside = folder / ARCHITECTURE
        given = architecture or (beside if beside.is_file() else None)
        named = [folder / name for name in (ONNX, WEIGHTS, PT2) if (folder / name).is_file()]
        found = named or sorted(each for each in folder.iterdir() if each.suffix in (".onnx", ".safetensors", ".pt2"))
        if not found:
            for each in sorted(folder.iterdir()):
                if each.is_file() and each.suffix in _PICKLES:
                    _look(each)  # says what is wrong with it
        if len(found) != 1:
            names = ", ".join(each.name for each in found[:5]) or "none"
            problem = f"it must hold one model.onnx, weights.safetensors or model.pt2; found: {names}"
            raise invalid(str(folder), "folder of a model", problem)
        return cls._of_file(inside(folder, found[0].name), folder, given)

    @classmethod
    def _of_package(cls, folder: Path) -> Self:
        manifest = inside(folder, MANIFEST)
        if manifest.stat().st_size > _TOP_JSON_BYTES:
            raise invalid(str(manifest), "package manifest", "it is too large")
        package = ModelPackage.parse(manifest.read_bytes())
        files = {name: inside(folder, name) for name in package.files}
        for name, path in files.items():
            _look(path)
            with path.open("rb") as file:
                if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" != package.files[name]:
                    raise invalid(name, "file of a package", "its bytes are not those that the manifest names")
        if not package.forms:
            raise invalid(str(folder), "folder of a package", "it holds nothing that can be run")
        form = package.forms[0]
        rest = {name: path for name, path in files.items() if name != form}
        return cls(
            form=form,
            file=files[form],
            folder=folder,
            architecture=package.architecture,
            package=package,
            beside=rest,
        )


def inside(folder: Path, name: str) -> Path:
    """A regular file in a folder, by its name there; InvalidArgument when it leads out of it or is something else."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name or "\0" in name:
        raise invalid(name, "file of a package", "its name leads out of the folder")
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise invalid(name, "file of a package", "it is a link out of the folder")
    if not real.is_file():
        raise NotFound("FILE_NOT_FOUND", file=str(path))
    return real


def _form(path: Path) -> Form:
    kind = _look(path)
    form = _KINDS.get(kind)
    if form is None:
        raise invalid(path.name, "model file", _CONVERT.get(kind, "it is of no kind that can be imported"))
    return form


def _look(path: Path) -> Kind:
    """What a file is, once it is known to be no pickle. Raises InvalidArgument (MODEL_FILE_PICKLED)."""
    if not path.is_file():
        raise invalid(path.name, "model file", "it is no regular file")
    if path.stat().st_size > LIMITS.file_bytes:
        raise invalid(path.name, "model file", f"it is larger than {LIMITS.file_bytes} bytes")
    with path.open("rb") as file:
        kind = refuse_pickle(file.read(HEAD), path.name)
        if kind is Kind.ZIP and path.suffix != ".pt2":
            check_pt2(file, path.name, is_compiled=True)  # what torch.save writes is a zip file as well
    return kind


def _architecture(path: Path) -> Architecture:
    """The architecture in a JSON file: `{"name": "image_classifier", "config": {...}}`. Raises InvalidArgument."""
    try:
        if path.stat().st_size > _TOP_JSON_BYTES:
            raise ValueError("it is too large")
        found = Architecture.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise NotFound("FILE_NOT_FOUND", file=str(path)) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise invalid(path.name, "architecture", str(error)[:200]) from error
    found.resolve()
    return found
