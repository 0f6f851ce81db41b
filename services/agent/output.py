"""The output of a process: its pipes cut into lines of bounded length, and the last of them kept."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from services.agent.secret_mask import NOTHING, Mask

_CHUNK: Final = 64 << 10
_LONGEST: Final = 8 << 10
_KEPT_LINES: Final = 40
_KEPT_BYTES: Final = 8 << 10
_HEARD_LINES: Final = 2000


class Tail:
    """The last lines of a process."""

    def __init__(self) -> None:
        self._lines: deque[tuple[str, bool]] = deque(maxlen=_KEPT_LINES)
        self._listeners: list[deque[str]] = []

    def add(self, line: str, is_stderr: bool) -> None:
        """Remember a line."""
        self._lines.append((line, is_stderr))
        if is_stderr:
            for heard in self._listeners:
                heard.append(line)

    @contextmanager
    def heard(self) -> Iterator[deque[str]]:
        """What is written to standard error while the block runs."""
        listener: deque[str] = deque(maxlen=_HEARD_LINES)
        self._listeners.append(listener)
        try:
            yield listener
        finally:
            self._listeners.remove(listener)

    def lines(self) -> list[str]:
        """What is remembered, oldest first, within a message's size."""
        kept: deque[str] = deque()
        size = 0
        for line, _ in reversed(self._lines):
            size += len(line) + 1
            if size > _KEPT_BYTES:
                break
            kept.appendleft(line)
        return list(kept)

    def by_weight(self) -> list[str]:
        """All that is remembered, standard error last, for there a traceback ends."""
        return [line for wanted in (False, True) for line, is_stderr in self._lines if is_stderr is wanted]


async def lines(pipe: asyncio.StreamReader, mask: Mask = NOTHING) -> AsyncIterator[str]:
    """The lines of a pipe until it is closed, without the secrets of a mask.

    A very long line comes in pieces, and what is not UTF-8 is marked.
    """
    rest = b""
    while chunk := await pipe.read(_CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            for piece in _pieces(mask.bytes(line)):
                yield piece
        if len(rest) > _LONGEST + mask.window:
            rest = mask.bytes(rest)  # before it is cut; what may be the beginning of a secret is kept back
            while len(rest) > _LONGEST + mask.window:
                yield _decoded(rest[:_LONGEST])
                rest = rest[_LONGEST:]
    for piece in _pieces(mask.bytes(rest)) if rest else ():
        yield piece


def _pieces(line: bytes) -> list[str]:
    if len(line) <= _LONGEST:
        return [_decoded(line)]
    return [_decoded(line[start : start + _LONGEST]) for start in range(0, len(line), _LONGEST)]


def _decoded(line: bytes) -> str:
    return line.rstrip(b"\r").decode(errors="replace").replace("\0", "�")
