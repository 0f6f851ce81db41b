"""The folders in which slices work: one per slice, gone when it has ended or the agent starts again."""

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from lepton.errors import FailedPrecondition


class WorkFolders:
    """Everything below one folder that belongs to slices."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def clear(self) -> None:
        """Remove what a former agent left."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True, mode=0o711)  # users of jobs pass through it to their own folders

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Path]:
        """A fresh folder of that name, for as long as the block runs."""
        folder = self._root / name
        await asyncio.to_thread(_make, folder)  # a disk may be slow
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Be the only agent with this state: a new session says that nothing of an earlier one is alive."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPrecondition("STATE_IN_USE", state_dir=str(folder)) from error
        yield
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
