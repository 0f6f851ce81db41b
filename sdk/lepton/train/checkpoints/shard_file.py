"""One rank's file: its pieces as a safetensors file, streamed from memory."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from lepton.train.checkpoints.manifest import ITEM_BYTES, Box
from lepton.train.checkpoints.memory import Holding

_GATHERED: Final = 1 << 20
_STEP: Final = 32 << 20


class Sink(Protocol):
    """Takes a file's bytes."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends."""
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """A piece in a rank's file."""

    path: str
    begin: int
    offset: Box
    shape: Box

    def to_json(self) -> list[Any]:
        """As a JSON array."""
        return [self.path, self.begin, self.offset, self.shape]


def write_shard(
    sink: Sink, holdings: Mapping[str, Holding], paths: Sequence[str], progress: Callable[[], None] = lambda: None
) -> list[Placed]:
    """Writes the pieces of these tensors and says where each lies; the widest types first, so that all are aligned."""
    chosen = sorted(((path, holdings[path]) for path in paths), key=lambda item: (-ITEM_BYTES[item[1].dtype], item[0]))
    header: dict[str, Any] = {}
    placed, end = [], 0
    for path, held in chosen:
        begin, end = end, end + held.local.numel() * ITEM_BYTES[held.dtype]
        name = path if not held.is_shard else f"{path}@{','.join(map(str, held.offset))}"
        header[name] = {"dtype": held.dtype, "shape": held.box, "data_offsets": [begin, end]}
        placed.append((path, begin, held))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    gathered = bytearray(len(text).to_bytes(8, "little") + text)
    for _, _, held in placed:
        for block in held.blocks():
            if len(block) < _GATHERED:
                gathered += block
            else:
                _pour(sink, gathered)
                for begin in range(0, len(block), _STEP):
                    sink.write(block[begin : begin + _STEP])
                    progress()
        if len(gathered) >= _GATHERED:
            _pour(sink, gathered)
            progress()
    _pour(sink, gathered)
    return [Placed(path, start + begin, held.offset, held.box) for path, begin, held in placed]


def _pour(sink: Sink, gathered: bytearray) -> None:
    if gathered:
        sink.write(gathered)
        gathered.clear()
