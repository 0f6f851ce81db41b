"""Files of secrets: in memory, in a folder of their own that only their job can enter, gone when it has ended."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lepton.errors import FailedPrecondition

_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_MOUNTS: Final = Path("/proc/self/mountinfo")
_SHARED: Final = "/dev/shm"  # noqa: S108 (of the machine: what programs themselves put there must stay readable)


class SecretFiles:
    """The folders below one that lies in memory."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    @property
    def hidden(self) -> tuple[str, ...]:
        """What other jobs must not read. Not in /dev/shm: hiding a part of it would hide what jobs put there later."""
        return () if self._root is None or str(self._root).startswith(_SHARED) else (str(self._root),)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Begin with nothing of a former agent, and leave nothing."""
        self._clear()
        try:
            yield
        finally:
            if self._root is not None:
                shutil.rmtree(self._root, ignore_errors=True)

    def _clear(self) -> None:
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root.mkdir(parents=True, mode=0o711, exist_ok=True)
            if self._root.stat().st_uid != os.geteuid() or not stat.S_ISDIR(self._root.lstat().st_mode):
                problem = f"{self._root} belongs to somebody else; set secrets_dir in the agent's settings"
                raise FailedPrecondition("SECRETS_UNAVAILABLE", problem=problem)
            self._root.chmod(0o711)  # users of jobs pass through it to their own folders

    @contextmanager
    def lay_out(self, name: str, files: Mapping[str, bytes], uid: int | None) -> Iterator[Path]:
        """A folder with these files, which only one user can read, for as long as the block runs."""
        if self._root is None:
            problem = "no folder of the node lies in memory; set secrets_dir in the agent's settings to one that does"
            raise FailedPrecondition("SECRETS_UNAVAILABLE", problem=problem)
        folder = self._root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            for path, content in files.items():
                _write(folder, path, content, uid)
            if uid is not None:
                os.chown(folder, uid, uid)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def folder_in_memory(wanted: Path | None, state_dir: Path, environ: Mapping[str, str]) -> Path | None:
    """Where secrets may lie: as the settings say, else in the user's or the machine's memory; None = nowhere.

    FailedPrecondition when the settings name a folder on a disk.
    """
    own = f"lepton-{hashlib.sha256(str(state_dir.absolute()).encode()).hexdigest()[:8]}"
    mounts = _mounts(_MOUNTS.read_text())
    if wanted is not None:
        if kind_of(wanted, mounts) not in _IN_MEMORY:
            problem = f"secrets_dir {wanted} lies on a disk; name a folder on a tmpfs"
            raise FailedPrecondition("SECRETS_UNAVAILABLE", problem=problem)
        return wanted / own
    for place in (environ.get("XDG_RUNTIME_DIR", ""), "/run/lepton", _SHARED):
        above = Path(place).parent if place == "/run/lepton" else Path(place)
        if place and kind_of(above, mounts) in _IN_MEMORY and os.access(above, os.W_OK | os.X_OK):
            return Path(place) / own
    return None


def kind_of(place: Path, mounts: Mapping[str, str]) -> str:
    """The kind of file system that a path lies on; `mounts` are kinds by mount point; pure but for links."""
    path = Path(os.path.realpath(place))
    return next((mounts[str(each)] for each in (path, *path.parents) if str(each) in mounts), "")


def _mounts(mountinfo: str) -> dict[str, str]:
    """The kind of file system at each mount point; of several at one point the last (proc_pid_mountinfo(5))."""
    found = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        found[before.split()[4].replace("\\040", " ")] = after.split()[0]
    return found


def _write(folder: Path, path: str, content: bytes, uid: int | None) -> None:
    target = folder / path
    for above in reversed(target.relative_to(folder).parents[:-1]):
        place = folder / above
        place.mkdir(mode=0o700, exist_ok=True)
        if uid is not None:
            os.chown(place, uid, uid)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400), "wb") as file:
        file.write(content)
        if uid is not None:
            os.fchown(file.fileno(), uid, uid)
