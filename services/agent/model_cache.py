"""Model files that this node has fetched before, kept by digest: the longest unused dropped, each verified when read.

A cold start is mostly the way of the weights; a replica that comes back to a node, and the next revision that shares
files with the last, find them here. Files are copied out and never linked, so nobody can change what is kept.
"""

import hashlib
import os
import threading
from pathlib import Path
from typing import Final, Protocol, Self

from chassis.logs import logger
from lepton.artifacts.draft import Draft, sweep_drafts
from lepton.errors import FailedPrecondition

log = logger(__name__)
_BLOCK: Final = 1 << 20


class ModelFiles(Protocol):
    """Where model files come from."""

    def read(self, project: str, digest: str) -> bytes:
        """The bytes, verified. Raises NotFound, FailedPrecondition."""
        ...

    def fetch_to(self, project: str, digest: str, target: Path) -> None:
        """Writes them to a file that appears whole and verified or not at all."""
        ...


class ModelCache:
    """A folder of files, at most so many bytes; safe for threads, used by one agent."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}

    @classmethod
    def made(cls, folder: Path, *, most_bytes: int) -> Self | None:
        """The cache in a folder, rid of what a killed agent has left half written; None when it may hold nothing."""
        if most_bytes == 0:
            return None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep_drafts(folder)
        cache = cls(folder, most_bytes=most_bytes)
        cache._shrink()
        return cache

    def forget(self, project: str) -> None:
        """Drop what is kept of a project that is gone."""
        for each in self._folder.iterdir():
            if each.name.rpartition("-")[0] == project:
                each.unlink(missing_ok=True)

    def over(self, store: ModelFiles) -> "CachedFiles":
        """The store with this cache before it."""
        return CachedFiles(self, store)

    def fetch_to(self, store: ModelFiles, project: str, digest: str, target: Path) -> bool:
        """Writes a file from the cache, filled from the store if need be; whether it was there."""
        kept = self._folder / f"{project}-{digest.removeprefix('sha256:')}"  # tenants do not see each other's files
        with self._one_at_a_time(kept.name):
            if self._copy(kept, digest, target):
                return True
            store.fetch_to(project, digest, kept)
            kept.chmod(0o400)
            if not self._copy(kept, digest, target):
                raise FailedPrecondition("ARTIFACT_CORRUPT", artifact=digest)
        self._shrink()
        return False

    def _copy(self, kept: Path, digest: str, target: Path) -> bool:
        """Copies a kept file, if it is still what it was; one that is not is dropped."""
        try:
            file = kept.open("rb")
        except FileNotFoundError:
            return False
        content, draft = hashlib.sha256(), Draft(target.parent, lambda _digest: target)
        with file:
            try:
                while block := file.read(_BLOCK):
                    content.update(block)
                    draft.write(block)
                if f"sha256:{content.hexdigest()}" != digest:
                    log.error("a kept model file has rotted and is fetched again", file=kept.name)
                    kept.unlink(missing_ok=True)
                    return False
                draft.finish()
            finally:
                draft.abandon()
        os.utime(kept)
        return True

    def _one_at_a_time(self, key: str) -> threading.Lock:
        """Two replicas that start with one model fetch it once."""
        with self._lock:
            return self._fetching.setdefault(key, threading.Lock())

    def _shrink(self) -> None:
        with self._lock:
            found = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._folder.glob("*-*"))
            total = sum(size for _, size, _ in found)
            for _, size, path in found:
                if total <= self._most_bytes:
                    return
                path.unlink(missing_ok=True)
                total -= size
                log.info("dropped from the node's model cache", file=path.name, bytes=size)


class CachedFiles:
    """A store behind a cache. What is small is read past it: manifests and golden requests are read once."""

    def __init__(self, cache: ModelCache, store: ModelFiles) -> None:
        self._cache, self._store = cache, store

    def read(self, project: str, digest: str) -> bytes:
        """The bytes, verified."""
        return self._store.read(project, digest)

    def fetch_to(self, project: str, digest: str, target: Path) -> None:
        """Writes them to a file."""
        self._cache.fetch_to(self._store, project, digest, target)
