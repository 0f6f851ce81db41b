"""What this process does while a block runs, by Python's own audit events: files it opens, programs it starts.

The hook sees every open, exec and unpickling of the interpreter, whoever asks for it; it cannot be taken out again, so
it is put in once and looks only while a block runs.
"""

import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STARTS = ("os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn")
_PLACES = ("open", "os.mkdir", "os.symlink", "os.link", "os.rename", "os.remove", "os.chmod", "os.chown", "os.truncate")
_INTERPRETER = tuple(os.path.realpath(each) for each in (sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib")))
_ROOT = os.path.realpath(Path(__file__).parents[2])  # modules of ours that are imported meanwhile


@dataclass
class Seen:
    """What was done outside the given folders, and what was started anywhere."""

    roots: tuple[str, ...]
    outside: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    unpickled: list[str] = field(default_factory=list)
    thread: int = field(default_factory=threading.get_ident)

    @property
    def harm(self) -> list[str]:
        """All of it."""
        return self.outside + self.started + self.unpickled

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTS:
            self.started.append(f"{event} {arguments[:2]}")
        elif event == "pickle.find_class":
            self.unpickled.append(f"{arguments}")
        elif event in _PLACES:
            for path in arguments[: 2 if event in ("os.symlink", "os.link", "os.rename") else 1][-1:]:
                self._note_path(event, path)

    def _note_path(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        real = os.path.realpath(os.fsdecode(path)) if event != "os.symlink" else _parent(os.fsdecode(path))
        if not real.startswith((*self.roots, *_INTERPRETER, _ROOT, "/dev/null")):
            self.outside.append(f"{event} {os.fsdecode(path)}")


_watching: list[Seen] = []


@contextmanager
def watched(*roots: Path) -> Iterator[Seen]:
    """What this thread does while the block runs."""
    if _hook not in _hooked:
        sys.addaudithook(_hook)
        _hooked.append(_hook)
    seen = Seen(tuple(os.path.realpath(root) for root in roots))
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


_hooked: list[Any] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or not event.startswith(("os.", "open", "subprocess.", "pickle.", "pty.")):
        return
    watching, _watching[:] = list(_watching), []  # what is done here is not looked at
    try:
        for seen in watching:
            if seen.thread == threading.get_ident():
                seen.note(event, arguments)
    finally:
        _watching[:] = watching


def _parent(path: str) -> str:
    return str(Path(path).parent.resolve() / Path(path).name)
