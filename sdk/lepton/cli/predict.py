"""`lepton predict`."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from lepton.cli.command import command
from lepton.cli.output import Form
from lepton.cli.shell import Shell
from lepton.errors import InvalidArgument

app = typer.Typer()
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask, and the right answers when they are known."""

    inputs: Array | dict[str, Array]
    labels: Array | None = None


@command(app, "predict")
async def predict(
    shell: Shell,
    deployment: Annotated[str, typer.Argument(help="The deployment's id or name, or its model name.")],
    data: Annotated[
        str,
        typer.Option(
            help="digits, an .npz file (x, y or the inputs' names), or a .json file (rows, or inputs by name)."
        ),
    ] = "digits",
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="Only the first rows; 0 = all.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one request may take.")] = 30.0,
) -> int | None:
    """Ask a served model through the gateway, and show what it answers.

    lepton predict digits --data digits --rows 100

    lepton predict digits --data image.json -o json
    """
    question = await asyncio.to_thread(read, data, rows)
    async with shell.client() as client:
        outputs = await client.predict(deployment, question.inputs, timeout_s=timeout)
    choices = _choices(outputs)
    accuracy = None
    if question.labels is not None and choices is not None:
        accuracy = float((choices == question.labels).mean())
    if shell.wishes.output in (Form.JSON, Form.YAML):
        document: dict[str, Any] = {"outputs": {name: array.tolist() for name, array in outputs.items()}}
        if choices is not None:
            document["classes"] = choices.tolist()
        if accuracy is not None:
            document["accuracy"] = accuracy
        shell.printer.document(document)
        return None
    _show(shell, outputs, choices, question.labels)
    if accuracy is not None and shell.printer.is_for_people:
        shell.note(f"share of right answers: {accuracy:.4f}")
    return None


def read(source: str, rows: int) -> Question:
    """What a user names, as inputs; at the most `rows` rows of it."""
    path = Path(source)
    if path.suffix == ".json":
        return _cut(_json(path), rows)
    if path.suffix == ".npz":
        return _cut(_npz(path), rows)
    from lepton import data  # scikit-learn is needed only for its digits

    dataset = data.load(source)
    return _cut(Question(dataset.x, dataset.y), rows)


def _json(path: Path) -> Question:
    try:
        document = json.loads(path.read_text())
        if isinstance(document, dict):
            return Question({name: _tensor(value) for name, value in document.items()})
        return Question(_tensor(document))
    except ValueError as error:
        raise InvalidArgument("INPUT_INVALID", file=str(path), problem=str(error)) from error


def _tensor(value: Any) -> Array:
    """Numbers or texts as they are written; the model's own types are made of them when they are sent."""
    array = np.asarray(value)
    if array.dtype == object:
        raise ValueError("it holds something else than rows of numbers or of texts")
    return array


def _npz(path: Path) -> Question:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ValueError as error:
        raise InvalidArgument("INPUT_INVALID", file=str(path), problem=str(error)) from error
    labels = arrays.pop("y", None)
    return Question(next(iter(arrays.values())) if len(arrays) == 1 else arrays, labels)


def _cut(question: Question, rows: int) -> Question:
    end = rows or None
    inputs = question.inputs
    cut = {name: array[:end] for name, array in inputs.items()} if isinstance(inputs, dict) else inputs[:end]
    return Question(cut, None if question.labels is None else question.labels[:end])


def _choices(outputs: dict[str, Array]) -> Array | None:
    """The most likely class of every row, when there is one output of scores."""
    scores = next(iter(outputs.values()))
    return scores.argmax(axis=1) if len(outputs) == 1 and scores.ndim == 2 and scores.shape[1] > 1 else None


def _show(shell: Shell, outputs: dict[str, Array], choices: Array | None, labels: Array | None) -> None:
    if choices is None:
        for name, array in outputs.items():
            shell.printer.text(f"{name}: {np.array2string(array, threshold=200, precision=4)}")
        return
    scores = next(iter(outputs.values())).astype(np.float64)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    for row, choice in enumerate(choices):
        if shell.wishes.output is Form.NAME:
            shell.printer.text(str(choice))
            continue
        right = "" if labels is None else ("  right" if labels[row] == choice else f"  wrong: it is {labels[row]}")
        shell.printer.text(f"{row:>5}  class {choice}  {100 * shares[row, choice]:5.1f} %{right}")
