"""Writes the rows of one shard in the form of the result; equal rows give equal bytes."""

import io
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from lepton.golden import DATATYPES
from lepton.models import Signature
from services.inference.batch.bad_row import BadRow
from services.inference.batch.prediction import Predicted

NPZ: Final = "NPZ"
JSONL: Final = "JSONL"
ROW: Final = "row"


def write(form: str, done: Sequence[Predicted | BadRow], signature: Signature) -> bytes:
    """The file of a shard."""
    return _lines(done) if form == JSONL else _archive(done, signature)


def _archive(done: Sequence[Predicted | BadRow], signature: Signature) -> bytes:
    good = [each for each in done if isinstance(each, Predicted)]
    arrays: dict[str, Any] = {ROW: np.array([each.row for each in good], np.int64)}
    for tensor in signature.outputs:
        empty = np.zeros((0, *(max(size, 0) for size in tensor.shape[1:])), DATATYPES[tensor.datatype])
        arrays[tensor.name] = np.stack([each.outputs[tensor.name] for each in good]) if good else empty
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def _lines(done: Sequence[Predicted | BadRow]) -> bytes:
    lines = []
    for each in done:
        if isinstance(each, BadRow):
            document: dict[str, Any] = {ROW: each.row, "error": {"reason": each.reason, "message": each.message}}
        else:
            document = {ROW: each.row, **{name: np.asarray(array).tolist() for name, array in each.outputs.items()}}
        lines.append(json.dumps(document, separators=(",", ":")))
    return ("\n".join(lines) + "\n").encode()
