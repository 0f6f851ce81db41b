"""What a node keeps of what jobs were given: made once, found again by its key, the longest unused dropped."""

import asyncio
import contextlib
import json
import os
import shutil
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chassis.clock import Clock
from chassis.logs import logger

log = logger(__name__)

_WHOLE: Final = ".whole"  # beside a folder: it is whole; says how large it is and when it was last used
Make = Callable[[Path], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Something that is there, for as long as it is held."""

    folder: Path
    facts: Mapping[str, Any]  # what `make` said of it


@dataclass(slots=True, eq=False)
class _Entry:
    making: asyncio.Lock = field(default_factory=asyncio.Lock)
    holders: int = 0


class DigestCache:
    """One folder of things by key. One agent uses it: the agent's lock on its state directory says so."""

    def __init__(self, root: Path, *, most_bytes: int, clock: Clock) -> None:
        self._root, self._most_bytes, self._clock = root, most_bytes, clock
        self._entries: dict[str, _Entry] = {}
        self._dropping = asyncio.Lock()  # what is being dropped must not be found meanwhile

    def clear_up(self) -> None:
        """Remove what an agent that was killed has left half made."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o711)
        whole = {each.name.removesuffix(_WHOLE) for each in self._root.glob(f"*{_WHOLE}")}
        for each in self._root.iterdir():
            if each.is_dir() and each.name not in whole:
                remove_tree(each)
            elif not each.is_dir() and not each.name.endswith(_WHOLE):
                each.unlink()

    @asynccontextmanager
    async def hold(self, key: str, make: Make) -> AsyncIterator[Kept]:
        """The thing of that key, made by `make` in an empty folder if need be. It stays while the block runs."""
        entry = self._entries.setdefault(key, _Entry())
        entry.holders += 1
        try:
            async with entry.making:  # whoever comes meanwhile waits, and finds it made
                async with self._dropping:
                    kept = await asyncio.to_thread(self._find, key)
                if kept is None:
                    kept = await self._make(key, make)
            yield kept
        finally:
            entry.holders -= 1
            if entry.holders == 0:
                del self._entries[key]
                async with self._dropping:
                    await asyncio.to_thread(self._shrink)

    async def drop(self, is_wanted: Callable[[str], bool]) -> None:
        """Remove what has such a key, except what is held."""
        async with self._dropping:
            await asyncio.to_thread(self._drop, is_wanted)

    def _drop(self, is_wanted: Callable[[str], bool]) -> None:
        for mark in self._root.glob(f"*{_WHOLE}"):
            key = mark.name.removesuffix(_WHOLE)
            if is_wanted(key) and key not in self._entries:
                mark.unlink()
                remove_tree(self._root / key)
                log.info("dropped from the node's cache", key=key)

    def _find(self, key: str) -> Kept | None:
        folder, mark = self._root / key, self._root / f"{key}{_WHOLE}"
        try:
            facts = json.loads(mark.read_bytes())
        except (OSError, ValueError):
            return None
        if not folder.is_dir():
            return None
        now = self._clock.now().timestamp()
        os.utime(mark, (now, now))
        return Kept(folder=folder, facts=facts["facts"])

    async def _make(self, key: str, make: Make) -> Kept:
        folder = self._root / key
        await asyncio.to_thread(_fresh, folder)
        try:
            facts = dict(await make(folder))
        except BaseException:
            await asyncio.to_thread(remove_tree, folder)
            raise
        await asyncio.to_thread(self._seal, key, facts)
        return Kept(folder=folder, facts=facts)

    def _seal(self, key: str, facts: Mapping[str, Any]) -> None:
        mark = self._root / f"{key}{_WHOLE}"
        aside = mark.with_suffix(".sealing")
        aside.write_text(json.dumps({"bytes": tree_bytes(self._root / key), "facts": facts}))
        aside.rename(mark)
        now = self._clock.now().timestamp()
        os.utime(mark, (now, now))

    def _shrink(self) -> None:
        """Drop what was not used for longest until the rest fits; never what is held."""
        marks = sorted(self._root.glob(f"*{_WHOLE}"), key=lambda each: each.stat().st_mtime)
        sizes = {mark: int(json.loads(mark.read_bytes())["bytes"]) for mark in marks}
        total = sum(sizes.values())
        for mark in marks:
            key = mark.name.removesuffix(_WHOLE)
            if total <= self._most_bytes:
                return
            if key not in self._entries:
                mark.unlink()
                remove_tree(self._root / key)
                total -= sizes[mark]
                log.info("dropped from the node's cache", key=key, bytes=sizes[mark])


def make_read_only(folder: Path) -> None:
    """Take the right to write from a tree; links are left alone."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(place) / name
            if not path.is_symlink():
                path.chmod(0o555 if path.stat().st_mode & stat.S_IXUSR else 0o444)
        Path(place).chmod(0o555)


def remove_tree(folder: Path) -> None:
    """Remove a tree, one that is read-only too."""
    for place, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            Path(place).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def tree_bytes(folder: Path) -> int:
    """What a tree takes on the disk, in bytes."""
    return sum((Path(place) / name).lstat().st_blocks * 512 for place, _, files in os.walk(folder) for name in files)


def _fresh(folder: Path) -> None:
    remove_tree(folder)
    folder.mkdir(parents=True, mode=0o755)
