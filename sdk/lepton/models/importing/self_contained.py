"""An ONNX file with its external data taken in: a package's file opens no other.

External data is read from the folder of the file and nowhere else: no absolute path, no `..`, no link that leads out,
no byte behind the end of a file. ONNX: docs/ExternalData.md.
"""

from pathlib import Path
from typing import Any

import onnx

from lepton.models.formats import LIMITS, OnnxScan, scan_onnx
from lepton.models.formats.limits import invalid
from lepton.models.importing.source import inside


def self_contained(file: Path, folder: Path) -> tuple[bytes, OnnxScan]:
    """The file's bytes with all data inside, and what was found in them. Raises InvalidArgument."""
    if file.stat().st_size > LIMITS.onnx_bytes:
        raise invalid(
            file.name, "ONNX file", f"it is larger than {LIMITS.onnx_bytes} bytes, which Protobuf cannot hold"
        )
    data = file.read_bytes()
    scan = scan_onnx(memoryview(data), file.name, is_external_allowed=True)
    if not scan.external:
        return data, scan
    total = len(data)
    for each in scan.external:
        size = inside(folder, each.location).stat().st_size
        length = size - each.offset if each.length is None else each.length
        if each.offset + length > size or length < 0:
            raise invalid(file.name, "ONNX file", f"it names bytes of {each.location[:200]!r} that are not there")
        total += length
    if total > LIMITS.onnx_bytes:
        problem = (
            f"with its external data it is {total} bytes, {LIMITS.onnx_bytes} at the most: give safetensors or .pt2"
        )
        raise invalid(file.name, "ONNX file", problem)
    model = onnx.load_model_from_string(data)
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _take_in(tensor, folder)
    whole = model.SerializeToString()
    return whole, scan_onnx(memoryview(whole), file.name)


def _take_in(tensor: Any, folder: Path) -> None:
    facts = {entry.key: entry.value for entry in tensor.external_data}
    with inside(folder, facts["location"]).open("rb") as source:
        source.seek(int(facts.get("offset", "0")))
        tensor.raw_data = source.read(int(facts["length"])) if "length" in facts else source.read()
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def _tensors(message: Any) -> list[Any]:
    """Every tensor of a model, those in attributes, subgraphs and functions too."""
    found, stack = [], [message]
    while stack:
        current = stack.pop()
        if isinstance(current, onnx.TensorProto):
            found.append(current)
            continue
        for field, value in current.ListFields():
            if field.message_type is not None:
                stack += value if field.is_repeated else [value]
    return found
