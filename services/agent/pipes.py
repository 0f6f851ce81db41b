"""Pipes from processes, read without the cost of a transport."""

import asyncio
import os
from contextlib import ExitStack
from typing import Final

_LINE_LIMIT: Final = 1 << 20
_CHUNK: Final = 64 << 10


class Feed:
    """Feeds a StreamReader from a file, for as long as somebody reads: a transport without the cost of one."""

    def __init__(self, file: int) -> None:
        self.reader = asyncio.StreamReader(limit=_LINE_LIMIT)
        self._file, self._loop = file, asyncio.get_running_loop()
        self._is_open = True
        self.reader.set_transport(self)  # type: ignore[arg-type]
        self.resume_reading()

    def pause_reading(self) -> None:
        """As a transport does."""
        self._loop.remove_reader(self._file)

    def resume_reading(self) -> None:
        """As a transport does."""
        if self._is_open:
            self._loop.add_reader(self._file, self._read)

    def is_closing(self) -> bool:
        """As a transport does."""
        return not self._is_open

    def close(self) -> None:
        """Whoever reads has come to the end."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._file)
            self.reader.feed_eof()

    def _read(self) -> None:
        try:
            data = os.read(self._file, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the other side has ended with something unread
        if data:
            self.reader.feed_data(data)
        else:
            self.close()


def pipe(ours: ExitStack, theirs: ExitStack) -> tuple[asyncio.StreamReader, int]:
    """A pipe: what is written into it, and the end to write into."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    theirs.callback(os.close, writing)
    ours.callback(os.close, reading)
    feed = Feed(reading)
    ours.callback(feed.close)
    return feed.reader, writing
