"""Runs a model over rows, batch by batch; a row that the model fails on is found, and costs no other row."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from services.inference.batch.bad_row import BadRow, Reason
from services.inference.batch.reading import Array, Row


class Model(Protocol):
    """What runs a batch: outputs by name for inputs by name; raises whatever it raises."""

    def __call__(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs of a batch."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """A row's outputs by name, without the batch dimension."""

    row: int
    outputs: Mapping[str, Array]


def predict(model: Model, rows: Iterable[Row | BadRow], start: int, batch_size: int) -> Iterator[Predicted | BadRow]:
    """Every row's outputs or why there are none, in the order of the rows, which are numbered from `start`."""
    waiting: list[tuple[int, Row | BadRow]] = []
    for number, row in enumerate(rows, start):
        waiting.append((number, row))
        if len(waiting) == batch_size:
            yield from _batch(model, waiting)
            waiting = []
    yield from _batch(model, waiting)


def _batch(model: Model, waiting: Sequence[tuple[int, Row | BadRow]]) -> list[Predicted | BadRow]:
    done: dict[int, Predicted | BadRow] = {}
    alike: dict[tuple[Any, ...], list[tuple[int, Row]]] = {}
    for number, row in waiting:
        if isinstance(row, BadRow):
            done[number] = row
        else:
            alike.setdefault(tuple(array.shape for array in row.values()), []).append((number, row))
    for group in alike.values():
        for each in _together(model, group):
            done[each.row] = each
    return [done[number] for number, _ in waiting]


def _together(model: Model, group: Sequence[tuple[int, Row]]) -> list[Predicted | BadRow]:
    """All at once; where that fails each half by itself, down to the row that is to blame."""
    joined = {name: np.stack([row[name] for _, row in group]) for name in group[0][1]}
    try:
        outputs = model(joined)
        if any(len(array) != len(group) for array in outputs.values()):
            raise ValueError("it gives another number of rows than it takes")
    except Exception as error:  # noqa: BLE001 (whatever the runtime raises is what is told of the row)
        if len(group) == 1:
            return [BadRow.of(group[0][0], Reason.MODEL_FAILED, str(error))]
        half = len(group) // 2
        return [*_together(model, group[:half]), *_together(model, group[half:])]
    return [
        _judged(number, {name: array[at] for name, array in outputs.items()}) for at, (number, _) in enumerate(group)
    ]


def _judged(number: int, outputs: Mapping[str, Array]) -> Predicted | BadRow:
    for name, array in outputs.items():
        if np.asarray(array).dtype.kind == "f" and not np.isfinite(array).all():
            return BadRow.of(number, Reason.OUTPUT_NOT_FINITE, f"{name} holds NaN or infinity")
    return Predicted(number, outputs)
