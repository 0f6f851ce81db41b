"""Takes known secrets out of what programs say: their output, their reports and their last words; pure.

Looked for are the value, each longer line of it, and it in base64 (with both alphabets), in hexadecimal,
percent-encoded and as it stands in JSON. A program that wants to tell a secret can: this is against accidents only.
"""

import base64
import json
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any, Final

MARK: Final = b"***"
SHORTEST: Final = 4  # bytes of a value that is looked for: what is shorter stands in everything
_SHORTEST_LINE: Final = 8  # of a line of a value: shorter ones are brackets and keywords
_MOST_LINES: Final = 512  # of one value
_SHORTEST_REST: Final = 4  # of a value that was cut


class Mask:
    """The secrets of one program."""

    def __init__(self, values: Iterable[bytes] = ()) -> None:
        found = {pattern for value in values for pattern in _patterns(value) if len(pattern) >= SHORTEST}
        self._patterns = sorted(found, key=lambda each: (-len(each), each))  # a part must not hide the whole
        self.window = max((len(each) for each in self._patterns), default=1) - 1
        """How many bytes at the end of a stream may be the beginning of something to take out."""

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def bytes(self, data: bytes) -> bytes:
        """The data without them."""
        for pattern in self._patterns:
            if pattern in data:
                data = data.replace(pattern, MARK)
        return data

    def text(self, text: str) -> str:
        """The text without them."""
        if not self._patterns:
            return text
        return self.bytes(text.encode(errors="replace")).decode(errors="replace")

    def cut(self, text: str) -> str:
        """A text that was cut at both ends without them, and without the part of one that the cut has left."""
        if not self._patterns:
            return text
        data = self.bytes(text.encode(errors="replace"))
        ends = (_overlap(data, each, at_end=True) for each in self._patterns)
        if kept := max(ends, default=0):
            data = data[:-kept] + MARK
        starts = (_overlap(data, each, at_end=False) for each in self._patterns)
        if kept := max(starts, default=0):
            data = MARK + data[kept:]
        return data.decode(errors="replace")

    def document(self, document: Any) -> Any:
        """A JSON document without them, keys included."""
        if not self._patterns:
            return document
        if isinstance(document, str):
            return self.text(document)
        if isinstance(document, dict):
            return {self.text(str(name)): self.document(value) for name, value in document.items()}
        if isinstance(document, list):
            return [self.document(each) for each in document]
        return document


NOTHING: Final = Mask()


def _patterns(value: bytes) -> Iterator[bytes]:
    whole = value.strip()
    if b"\n" not in whole:
        yield whole
    else:
        lines = sorted({line.strip() for line in whole.splitlines()}, key=lambda each: (-len(each), each))
        yield from (line for line in lines[:_MOST_LINES] if len(line) >= _SHORTEST_LINE)
    for each in (whole, value):
        if len(each) < SHORTEST:
            continue
        for encoded in (base64.b64encode(each), base64.urlsafe_b64encode(each)):
            yield encoded.rstrip(b"=")
        yield each.hex().encode()
        yield each.hex().upper().encode()
        yield urllib.parse.quote_from_bytes(each, safe="").encode()
        yield json.dumps(each.decode(errors="replace"))[1:-1].encode()


def _overlap(data: bytes, pattern: bytes, *, at_end: bool) -> int:
    """How many bytes at an end of the data are the beginning, or the end, of the pattern."""
    for length in range(min(len(data), len(pattern) - 1), _SHORTEST_REST - 1, -1):
        if data.endswith(pattern[:length]) if at_end else data.startswith(pattern[-length:]):
            return length
    return 0
