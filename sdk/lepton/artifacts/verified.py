"""Which files of this machine were verified already, so that the ranks of a node hash each file once between them.

A marker holds what the file was when its bytes matched its digest: device, inode, size, times. It is not written for a
file that changed within the last seconds: another change within the same tick of the file system's clock would not show
(git's index has the same rule). The markers are this user's own; whoever can forge them can as well change the code.
They lie in memory that the ranks of a node share: their temporary folders are each one's own.
"""

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_SETTLED_S: Final = 2.0
_FORGOTTEN_S: Final = 86_400.0
_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # what lies there is in a folder of ours alone
_SHARED: Final = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())


def is_intact(file: int, digest: str) -> bool:
    """Whether the bytes of an open local file have this digest. Raises OSError when they cannot be read."""
    with _marker(digest) as marker:
        identity = _identity(os.fstat(file))
        if marker is not None and os.pread(marker, 256, 0) == identity:
            return True
        with os.fdopen(os.dup(file), "rb") as content:
            content.seek(0)
            if f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}" != digest:
                return False
        found = os.fstat(file)
        is_settled = time.time() - max(found.st_mtime, found.st_ctime) > _SETTLED_S
        if marker is not None and is_settled and _identity(found) == identity:
            with suppress(OSError):  # a full disk costs the next rank some time
                os.ftruncate(marker, 0)
                os.pwrite(marker, identity, 0)
        return True


@contextmanager
def _marker(digest: str) -> Iterator[int | None]:
    """The marker of a digest, locked: of several ranks one hashes, the others wait and believe it."""
    try:
        folder = _SHARED / f"lepton-verified-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{folder} is not ours alone")
        if digest.endswith("0"):  # now and then
            _prune(folder)
        path = folder / digest.removeprefix("sha256:")
        marker = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(marker, fcntl.LOCK_EX)
        yield marker
    finally:
        os.close(marker)


def _prune(folder: Path) -> None:
    """Removes the markers of files that nobody has read for long."""
    for old in folder.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > _FORGOTTEN_S:
                old.unlink()


def _identity(found: os.stat_result) -> bytes:
    facts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return ":".join(map(str, facts)).encode()
