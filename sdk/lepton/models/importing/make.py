"""From a source to a package: files looked at, the model run once, golden requests and signature made of that."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file

from lepton.errors import InvalidArgument
from lepton.models.formats import read_header, without_pickles
from lepton.models.formats.safetensors_header import header_bytes
from lepton.models.formats.sniff import HEAD
from lepton.models.importing import proof
from lepton.models.importing.proof import Proof
from lepton.models.importing.self_contained import self_contained
from lepton.models.importing.source import Source
from lepton.models.package import GOLDEN, ONNX, Form, LineageValue, ModelPackage, Tensor

Say = Callable[[str], None]
_DIGEST: Final = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What whoever imports has said beside the path."""

    golden: Path | None = None
    """An .npz file: inputs by name, perhaps outputs, perhaps `labels`."""
    seed: int = 0
    code: str = ""
    """`FILE.py:FUNCTION` that builds the module whose weights are given; it is run."""
    inputs: tuple[Tensor, ...] = ()
    """What that module takes, in order."""
    below: Mapping[str, int] = field(default_factory=dict)
    """What whole numbers of an input stay below, when samples are made."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """What free dimensions of an input, beside the first, are when samples are made."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    lineage: Mapping[str, LineageValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A package that is ready to be stored: its files, and what it says once they have digests."""

    files: Mapping[str, Path]
    proof: Proof
    remarks: tuple[str, ...]
    """What was changed or left out on the way."""
    draft: ModelPackage

    def of(self, parent: str) -> "Made":
        """The same, made of a version."""
        return replace(self, draft=replace(self.draft, lineage={**self.draft.lineage, "parent": parent}))

    def package(self, digests: Mapping[str, str]) -> ModelPackage:
        """The package whose files have these digests."""
        return replace(self.draft, files=dict(digests))


def make(source: Source, wishes: Wishes, folder: Path, say: Say = lambda _words: None) -> Made:
    """Makes the files of a package in `folder`.

    Raises InvalidArgument (MODEL_FILE_INVALID, MODEL_FILE_PICKLED, MODEL_NOT_PROVED, GOLDEN_INVALID).
    """
    say(f"looking at {source.file.name}")
    model, remarks = _taken_in(source, folder)
    say("running it once with its golden requests")
    proved = proof.prove(_spec(source, wishes, model, folder), folder)
    form = Form.ONNX if wishes.code else source.form
    files = {form: folder / ONNX if wishes.code else model, GOLDEN: folder / GOLDEN}
    # Further files of an exported package stay with it; golden requests of its own were used for the proof.
    files |= {name: path for name, path in source.beside.items() if name != GOLDEN}
    before = source.package
    return Made(
        files=files,
        proof=proved,
        remarks=remarks,
        draft=ModelPackage(
            architecture=None if wishes.code else source.architecture,
            files=dict.fromkeys(files, _DIGEST),
            signature=proved.signature,
            metrics={**(before.metrics if before else {}), **proved.metrics, **wishes.metrics},
            lineage={**(before.lineage if before else {}), "source": _words(source, wishes), **wishes.lineage},
        ),
    )


def _taken_in(source: Source, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The model's file as the package will hold it, checked; and what was done to it."""
    target = folder / source.form
    if source.form is Form.ONNX:
        data, scan = self_contained(source.file, source.folder)
        target.write_bytes(data)
        taken = f"{scan.nodes} operators, operator set {scan.opsets.get('', scan.opsets.get('ai.onnx'))}"
        return target, (taken,) if len(data) == source.file.stat().st_size else (taken, "external data was taken in")
    if source.form is Form.PT2:
        with source.file.open("rb") as archive, target.open("w+b") as cleaned:
            left_out = without_pickles(archive, source.file.name, cleaned)
        return target, tuple(f"left out: {name} (a pickle)" for name in left_out)
    with source.file.open("rb") as file:
        head = file.read(HEAD)
        size = header_bytes(head, source.file.name)
        file.seek(0)
        tensors = read_header(file.read(size), source.file.stat().st_size, source.file.name)
    shutil.copyfile(source.file, target)
    return target, (f"{len(tensors)} tensors, {sum(each.elements for each in tensors.values())} parameters",)


def _spec(source: Source, wishes: Wishes, model: Path, folder: Path) -> dict[str, Any]:
    if source.form is Form.WEIGHTS and source.architecture is None and not wishes.code:
        problem = "weights alone say nothing of the model: give --architecture FILE.json, or --code FILE.py:FUNCTION"
        raise InvalidArgument("INVALID_FIELD", fields={"architecture": problem})
    if wishes.code and (source.form is not Form.WEIGHTS or not wishes.inputs):
        problem = (
            "is for safetensors weights, and needs --input NAME=DATATYPE[SHAPE] for everything that the module takes"
        )
        raise InvalidArgument("INVALID_FIELD", fields={"code": problem})
    signature = None
    golden = wishes.golden
    if source.package is not None:
        signature = source.package.signature.to_json()
        if golden is None and GOLDEN in source.beside:
            golden = _as_npz(source.beside[GOLDEN], source.package, folder)
    return {
        "form": source.form,
        "model": str(model.absolute()),
        "architecture": None if source.architecture is None else source.architecture.to_json(),
        "code": wishes.code,
        "inputs": [tensor.to_json() for tensor in wishes.inputs],
        "golden": None if golden is None else str(golden.absolute()),
        "seed": wishes.seed,
        "below": dict(wishes.below),
        "sizes": dict(wishes.sizes),
        "signature": signature,
    }


def _as_npz(golden: Path, package: ModelPackage, folder: Path) -> Path:
    """The golden samples of a package, as those that its model has to answer again."""
    with golden.open("rb") as file:
        head = file.read(HEAD)
        file.seek(0)
        read_header(file.read(header_bytes(head, golden.name)), golden.stat().st_size, golden.name)
    arrays = load_file(golden)
    named = {("labels" if name == package.signature.labels else name): array for name, array in arrays.items()}
    path = folder / "given.npz"
    np.savez(path, **named)  # type: ignore[arg-type]
    return path


def _words(source: Source, wishes: Wishes) -> str:
    what = {Form.ONNX: "ONNX file", Form.PT2: "exported program", Form.WEIGHTS: "safetensors weights"}[source.form]
    code = f" with {Path(wishes.code.rpartition(':')[0]).name}" if wishes.code else ""
    return f"{what} {source.file.name}{code}"[:256]
