"""Brings a file to disk in a thread of its own: one fdatasync for all that wait for it."""

import asyncio
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

_STOP: Final = -1


class Flusher:
    """Group commit. A plain thread, because an executor costs more than all the rest of a record."""

    def __init__(self, sync: Callable[[int], None] = os.fdatasync) -> None:
        self._sync = sync
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[None]] = []
        self._flushing: list[asyncio.Future[None]] | None = None
        self._wanted: SimpleQueue[int] = SimpleQueue()
        self._retired: list[int] = []
        self._file = _STOP
        self._thread = threading.Thread(target=self._run, name="audit-flush", daemon=True)
        self._thread.start()

    def use(self, file: int) -> None:
        """Flush this file from now on; the one before is closed as soon as nobody flushes it."""
        if self._file != _STOP:
            self._retired.append(self._file)
        self._file = file
        if self._flushing is None:
            self._close_retired()

    async def durable(self) -> None:
        """Return when everything that was written before this call is on disk; OSError when the disk refuses."""
        future = self._loop.create_future()
        self._waiting.append(future)
        if self._flushing is None:
            self._start()
        await future

    def close(self) -> None:
        """Flush for the last time and end the thread."""
        self._wanted.put(_STOP)
        self._thread.join()
        self._close_retired()
        if self._file != _STOP:
            os.close(self._file)
            self._file = _STOP

    def _start(self) -> None:
        self._flushing, self._waiting = self._waiting, []
        self._wanted.put(self._file)

    def _run(self) -> None:
        while (file := self._wanted.get()) != _STOP:
            error: OSError | None = None
            try:
                self._sync(file)
            except OSError as caught:
                error = caught
            try:
                self._loop.call_soon_threadsafe(self._done, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def _done(self, error: OSError | None) -> None:
        flushed, self._flushing = self._flushing or [], None
        if error is not None:
            # What they wrote is in the same file, of which the kernel may now say that all is well.
            flushed += self._waiting
            self._waiting = []
        for future in flushed:
            if future.done():
                continue  # its call was cancelled
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(OSError(error.errno, os.strerror(error.errno or 0)))
        self._close_retired()
        if self._waiting:
            self._start()

    def _close_retired(self) -> None:
        while self._retired:
            os.close(self._retired.pop())
