"""Texts in tensors: how they are sent, kept in golden files and shown."""

import json
from pathlib import Path

import numpy as np
import pytest

from lepton.cli.predict import read
from lepton.errors import InvalidArgument
from lepton.golden import from_raw, pack_texts, to_raw


def test_texts_come_back_as_they_were_sent() -> None:
    texts = np.array([[b"", "ä".encode()], [b"a b", b"\x00x"]], object)
    assert (from_raw(to_raw(texts), "BYTES", texts.shape) == texts).all()
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(from_raw(to_raw(numbers), "FP32", (2, 3)), numbers)
    with pytest.raises(ValueError, match="reshape"):
        from_raw(to_raw(texts), "BYTES", (3, 2, 1))


def test_texts_are_packed_to_one_width() -> None:
    packed = pack_texts(np.array([["a"], ["longer"], [""]], object))
    assert (packed.shape, packed.dtype) == ((3, 1, 6), np.uint8)
    assert packed[1, 0].tobytes() == b"longer"


def test_what_is_asked_keeps_its_type(tmp_path: Path) -> None:
    path = tmp_path / "question.json"
    path.write_text(json.dumps({"amounts": [[16_777_217, 3]], "purpose": [["car"]]}))
    inputs = read(str(path), 0).inputs
    assert isinstance(inputs, dict)
    assert inputs["amounts"].tolist() == [[16_777_217, 3]]
    assert inputs["purpose"].tolist() == [["car"]]
    path.write_text(json.dumps({"x": [[1, 2], [3]]}))
    with pytest.raises(InvalidArgument):
        read(str(path), 0)
