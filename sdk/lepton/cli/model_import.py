"""`lepton models import` and `lepton models export`."""

import asyncio
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from lepton.cli.columns import VERSIONS
from lepton.cli.deploy import parse_model
from lepton.cli.shell import Shell
from lepton.errors import FailedPrecondition
from lepton.models.package import LineageValue, Tensor

if TYPE_CHECKING:
    from lepton.models.importing import Made, Wishes

_INPUT: Final = re.compile(r"(?P<name>[^=]+)=(?P<datatype>[A-Z0-9]+)\[(?P<shape>-?\d+(,-?\d+)*)\]")
_GOLDEN: Final = "Golden requests"
_SAID: Final = "What is said of it"
_CODE: Final = "Weights with code"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenOptions:
    """The requests that a model is proved with."""

    golden: Annotated[
        Path | None,
        typer.Option(
            help=".npz: inputs by name, perhaps outputs that must come out, perhaps `labels`; else they are made.",
            rich_help_panel=_GOLDEN,
        ),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Of the ones that are made.", rich_help_panel=_GOLDEN)] = 0
    below: Annotated[
        list[str] | None,
        typer.Option(help="INPUT=N: made whole numbers are below N (2), e.g. a vocabulary.", rich_help_panel=_GOLDEN),
    ] = None
    size: Annotated[
        list[str] | None,
        typer.Option(help="INPUT=N: free dimensions beside the first are N (16).", rich_help_panel=_GOLDEN),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidOptions:
    """What the new version says of itself."""

    description: Annotated[str, typer.Option(help="In words.", rich_help_panel=_SAID)] = ""
    tag: Annotated[list[str] | None, typer.Option(help="KEY=VALUE.", rich_help_panel=_SAID)] = None
    metric: Annotated[list[str] | None, typer.Option(help="NAME=NUMBER.", rich_help_panel=_SAID)] = None
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Digest of what it was trained on (sha256:..), for its lineage.", rich_help_panel=_SAID),
    ] = None
    parent: Annotated[
        str, typer.Option(help="The version it was made of: MODEL[@VERSION|:ALIAS].", rich_help_panel=_SAID)
    ] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeOptions:
    """The module whose weights are given."""

    architecture: Annotated[
        Path | None,
        typer.Option(help='JSON: {"name": "image_classifier", "config": {..}}.', rich_help_panel=_CODE),
    ] = None
    code: Annotated[
        str,
        typer.Option(
            help="FILE.py:FUNCTION that builds the module. It is run here, on this machine.", rich_help_panel=_CODE
        ),
    ] = ""
    input: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FP32[-1,3,32,32]: what the module takes, in order; -1 = any.", rich_help_panel=_CODE),
    ] = None


async def import_(
    shell: Shell,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Its id in the registry; made if it is new.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="An .onnx, .safetensors or .pt2 file, or a folder.")],
    golden: GoldenOptions,
    said: SaidOptions,
    code: CodeOptions,
    check: Annotated[bool, typer.Option("--check", help="Look at it and run it; register nothing.")] = False,
) -> int | None:
    """Register a model from elsewhere as the next version of MODEL.

    \b
    lepton models import resnet resnet50.onnx --golden requests.npz
    lepton models import digits digits.safetensors --architecture digits.json
    lepton models import net net.safetensors --code net.py:build --input "x=FP32[-1,3,32,32]"
    lepton models import bert bert.pt2 --below input_ids=30522 --size input_ids=128
    lepton models import digits exported/          # what `lepton models export` wrote

    The file is looked at first: pickles (.pt, .pth, .bin, .pkl) are refused, for to read one is to run it; data of an
    ONNX file must lie beside it; operators must be ones that are run here. Then the model is run once, in a process
    with bounds on memory and time, with golden requests: given ones, or ones made of a seed. Its answers are kept with
    it, and every replica has to give them again before it gets a call. Only then is it registered.

    An upload that was cut off goes on where it was when the command is given again.
    """
    with tempfile.TemporaryDirectory(prefix="lepton-import-") as folder:
        made = await asyncio.to_thread(_make, shell, path, code, _wishes(golden, said, code), Path(folder))
        for remark in made.remarks:
            shell.note(remark)
        shell.note(_proved(made))
        if check:
            shell.printer.document(_report(made))
            return None
        async with shell.client() as client:
            made = await _with_parent(client, made, said.parent)
            with _bars(shell) as bars:
                version = await client.models.register_files(
                    name, made, description=said.description, tags=pairs(said.tag or ()), progress=_teller(bars)
                )
            shell.printer.one(version, VERSIONS)
    return None


async def export(
    shell: Shell,
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION|:ALIAS]", help="Which version.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; made if it is not there.")],
) -> int | None:
    """Write a version's files and its manifest into a folder.

    \b
    lepton models export digits@3 exported/
    lepton models import digits exported/          # back, or into another installation

    What is there already, whole, is not fetched again; what was cut off goes on.
    """
    async with shell.client() as client:
        version = await client.models.get_version(*parse_model(model))
        with _bars(shell) as bars:
            written = await client.models.export(version, folder, progress=_teller(bars))
    if shell.printer.is_for_people:
        for path in written:
            shell.printer.text(str(path))
    else:
        shell.printer.document({"version": version.name, "files": [str(path) for path in written]})
    return None


def pairs(marks: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE, several times."""
    found = {}
    for mark in marks:
        key, is_set, value = mark.partition("=")
        if not is_set or not key:
            raise typer.BadParameter(f"{mark}: write KEY=VALUE")
        found[key] = value
    return found


def _make(shell: Shell, path: Path, code: CodeOptions, wishes: "Wishes", folder: Path) -> "Made":
    try:
        from lepton.models.importing import Source, make  # its libraries take a second, and not every client has them
    except ImportError as error:
        raise FailedPrecondition("EXTRA_MISSING", package=error.name or "onnx", extra="import") from error
    return make(Source.of(path, code.architecture), wishes, folder, shell.note)


def _wishes(golden: GoldenOptions, said: SaidOptions, code: CodeOptions) -> "Wishes":
    try:
        from lepton.models.importing import Wishes
    except ImportError as error:
        raise FailedPrecondition("EXTRA_MISSING", package=error.name or "onnx", extra="import") from error
    lineage: dict[str, LineageValue] = {}
    if said.dataset:
        lineage = {"dataset": said.dataset[0], "datasets": tuple(said.dataset[1:])}
    return Wishes(
        golden=golden.golden,
        seed=golden.seed,
        code=code.code,
        inputs=tuple(map(_tensor, code.input or ())),
        below=_numbers(golden.below or ()),
        sizes=_numbers(golden.size or ()),
        metrics={key: _real(value) for key, value in pairs(said.metric or ()).items()},
        lineage=lineage,
    )


async def _with_parent(client: object, made: "Made", parent: str) -> "Made":
    if not parent:
        return made
    version = await client.models.get_version(*parse_model(parent))  # type: ignore[attr-defined]
    return made.of(version.name)


def _proved(made: "Made") -> str:
    proof = made.proof
    whence = f"made of seed {proof.seed}: give real ones with --golden" if proof.is_made else "given"
    measured = "".join(f", {name} {value:.4f}" for name, value in sorted(proof.metrics.items()))
    return f"proved: {proof.rows} golden requests ({whence}) in {proof.seconds * 1000:.1f} ms{measured}"


def _report(made: "Made") -> Mapping[str, object]:
    signature = made.proof.signature
    return {
        "files": {str(name): path.stat().st_size for name, path in sorted(made.files.items())},
        "inputs": [tensor.to_json() for tensor in signature.inputs],
        "outputs": [tensor.to_json() for tensor in signature.outputs],
        "golden": {"rows": made.proof.rows, "made": made.proof.is_made, "seed": made.proof.seed},
        "metrics": dict(made.draft.metrics),
        "remarks": list(made.remarks),
    }


def _bars(shell: Shell) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=shell.stderr,
        transient=True,
        disable=not shell.stderr.is_terminal,
    )


class _Teller:
    """Moves a bar for every file."""

    def __init__(self, bars: Progress) -> None:
        self._bars, self._tasks = bars, {}  # type: ignore[var-annotated]

    def __call__(self, file: str, done: int, total: int) -> None:
        if file not in self._tasks:
            self._tasks[file] = self._bars.add_task(file, total=total)
        self._bars.update(self._tasks[file], completed=done)


def _teller(bars: Progress) -> _Teller:
    return _Teller(bars)


def _tensor(text: str) -> Tensor:
    match = _INPUT.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text}: write NAME=DATATYPE[SHAPE], for example x=FP32[-1,3,32,32]")
    return Tensor(name=match["name"], datatype=match["datatype"], shape=tuple(map(int, match["shape"].split(","))))


def _numbers(marks: Sequence[str]) -> dict[str, int]:
    found = pairs(marks)
    if wrong := [key for key, value in found.items() if not value.isdecimal() or int(value) < 1]:
        raise typer.BadParameter(f"{wrong[0]}={found[wrong[0]]}: write INPUT=N with N of 1 or more")
    return {key: int(value) for key, value in found.items()}


def _real(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text}: a metric is a number")
    return value
