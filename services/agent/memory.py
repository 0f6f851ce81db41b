"""How much memory a rank may use, and whether the kernel killed it for want of it, by its cgroup or by the machine."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from services.agent.cause import Memory

_ROOT: Final = Path("/")
_EVENTS: Final = ("memory.events", "memory.oom_control")  # of cgroup 2, of cgroup 1
_LIMITS: Final = ("memory.max", "memory.limit_in_bytes")


class MemoryWatch:
    """Looks at one process's memory while it lives, so that something is known when it does not any more."""

    def __init__(self, pid: int, root: Path = _ROOT) -> None:
        self._pid, self._root = pid, root
        self._folder: Path | None = None
        self._kills_before = 0
        self._peak_bytes = 0
        self.look()

    def look(self) -> None:
        """To be called now and then: a process may be moved, and what it used is gone with it."""
        folder = next((each for each in self._cgroups() if self._kills(each) is not None), None)
        peak_kib = _field(self._root / f"proc/{self._pid}/status", "VmHWM:")
        if peak_kib is None and self._peak_bytes:
            return  # it is ending: its memory is gone, and the kernel has moved it to the root's cgroup
        if folder is not None and folder != self._folder:
            self._folder = folder
            self._kills_before = self._kills(folder) or 0
        elif folder is None and self._folder is None and not self._kills_before:
            self._kills_before = self._machine_kills()
        self._peak_bytes = max(self._peak_bytes, 1024 * (peak_kib or 0))

    def end(self, peak_bytes: int = 0) -> Memory:
        """What is known when it has ended; `peak_bytes` is what the kernel said of it then."""
        total_bytes = 1024 * (_field(self._root / "proc/meminfo", "MemTotal:") or 0)
        limit_bytes, kills = total_bytes, self._machine_kills()
        if self._folder is not None:
            kills = self._kills(self._folder) or 0
            own = next((found for name in _LIMITS if (found := _number(self._folder / name))), 0)
            limit_bytes = min(own, total_bytes or own) if own else total_bytes
        return Memory(
            peak_bytes=max(self._peak_bytes, peak_bytes),
            limit_bytes=limit_bytes,
            oom_kills=max(kills - self._kills_before, 0),
        )

    def _cgroups(self) -> Iterable[Path]:
        """The folders of its memory controller: as the machine sees them, and as a container does."""
        for line in _lines(self._root / f"proc/{self._pid}/cgroup"):
            controllers, _, path = line.partition(":")[2].partition(":")
            base = self._root / "sys/fs/cgroup"
            if not controllers:
                yield from (base / path.lstrip("/"), base)
            elif "memory" in controllers.split(","):
                yield from (base / "memory" / path.lstrip("/"), base / "memory")

    def _kills(self, folder: Path) -> int | None:
        return next((found for name in _EVENTS if (found := _field(folder / name, "oom_kill")) is not None), None)

    def _machine_kills(self) -> int:
        return _field(self._root / "proc/vmstat", "oom_kill") or 0


def _field(file: Path, name: str) -> int | None:
    for line in _lines(file):
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdecimal():
            return int(words[1])
    return None


def _number(file: Path) -> int:
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() else 0  # "max" is no limit


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
