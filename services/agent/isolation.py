"""As whom, and within which limits, the code of jobs runs here: a user for each project, a cgroup for each slice."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from chassis.logs import logger
from lepton.errors import FailedPrecondition
from services.agent.confinement import Confinement

log = logger(__name__)

_CONTROLLERS: Final = ("cpu", "memory", "pids")
_CPU_PERIOD_US: Final = 100_000
_FILE: Final = "users.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationSettings:
    """What jobs are held to; the defaults need no rights."""

    first_uid: int = 0  # with an agent that runs as root: the first of the users that projects are given; 0 = none
    uids: int = 1000  # how many
    cgroup: str = ""  # the folder of a cgroup (version 2) that was handed over to the agent; empty = none
    processes: int = 4096  # that one slice may have, where there is a cgroup
    cpu_burst: float = 0.0  # times its cores that a slice may use; 0 = what is idle, by weight; where there is a cgroup
    hidden: tuple[str, ...] = ()  # folders whose files jobs cannot read, beside the agent's own state
    memory: bool = True  # whether a rank that uses more memory than its job asked for is ended
    open_files: int = 65_536
    file_bytes: int = 0  # the largest file that a job may write; 0 = no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one slice is given."""

    memory_bytes: int = 0  # 0 = no limit
    cpu_milli: int = 0


class Isolation:
    """Hands out users and cgroups."""

    def __init__(
        self,
        settings: IsolationSettings,
        state_dir: Path,
        *,
        shown: tuple[str, ...] = (),
        hidden: tuple[str, ...] = (),
    ) -> None:
        self._settings = settings
        self._hidden, self._shown = (str(state_dir), *settings.hidden, *hidden), shown
        self._users = Users(state_dir / _FILE, settings.first_uid, settings.uids)
        self._cgroup = Path(settings.cgroup) if settings.cgroup else None

    def prepare(self) -> None:
        """Check that what the settings ask for can be had. FailedPrecondition naming the setting."""
        for folder in self._shown:
            with contextlib.suppress(OSError):  # what is not there cannot be shown to a rank that makes it
                Path(folder).mkdir(parents=True, exist_ok=True)
        if self._settings.first_uid and os.geteuid() != 0:
            raise FailedPrecondition("ISOLATION_UNAVAILABLE", setting="isolation.first_uid", problem="it needs root")
        if self._cgroup is not None:
            try:
                _enable(self._cgroup)
            except OSError as error:
                raise FailedPrecondition(
                    "ISOLATION_UNAVAILABLE", setting="isolation.cgroup", problem=f"{self._cgroup}: {error}"
                ) from error

    @property
    def watches_memory(self) -> bool:
        """Whether the agent itself has to look at what ranks use: no cgroup does it."""
        return self._settings.memory and self._cgroup is None

    @property
    def has_users(self) -> bool:
        """Whether projects have users of their own here."""
        return self._settings.first_uid > 0

    def user(self, project: str) -> int | None:
        """The user of a project here; None for the agent's own. FailedPrecondition when there is none left for it."""
        return self._users.of(project) if self.has_users else None

    def confinement(self, project: str) -> Confinement:
        """What everything of a project is held to. FailedPrecondition when there is no user left for it."""
        settings = self._settings
        limits = {"core": 0, "files": settings.open_files}
        if settings.file_bytes:
            limits["file_bytes"] = settings.file_bytes
        return Confinement(uid=self.user(project), limits=limits, hidden=self._hidden, shown=self._shown)

    @asynccontextmanager
    async def slice(self, name: str, project: str, share: Share) -> AsyncIterator[Confinement]:
        """What one slice is held to while the block runs; what is left in its cgroup then is killed."""
        held = self.confinement(project)
        if self._cgroup is None:
            yield held
            return
        folder = self._cgroup / name
        wanted = _limits(share, self._settings)
        await asyncio.to_thread(_make, folder, wanted)
        try:
            yield replace(held, cgroup=str(folder))
        finally:
            await asyncio.to_thread(_kill, folder)
            await _remove(folder)


class Users:
    """Which project has which user; kept on the disk, for what a project has written stays its own."""

    def __init__(self, file: Path, first: int, count: int) -> None:
        self._file, self._first, self._count = file, first, count
        self._of: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError):
            self._of = json.loads(file.read_bytes())

    def of(self, project: str) -> int:
        """The project's user; FailedPrecondition when all are given away."""
        known = self._of.get(project)
        if known is not None and self._first <= known < self._first + self._count:
            return known
        taken = set(self._of.values())
        free = next((uid for uid in range(self._first, self._first + self._count) if uid not in taken), None)
        if free is None:
            problem = f"all {self._count} users are given to projects; raise it"
            raise FailedPrecondition("ISOLATION_UNAVAILABLE", setting="isolation.uids", problem=problem)
        self._of[project] = free
        aside = self._file.with_suffix(".writing")
        aside.write_text(json.dumps(self._of))
        aside.rename(self._file)
        log.info("project was given a user", project=project, uid=free)
        return free


def _limits(share: Share, settings: IsolationSettings) -> Mapping[str, str]:
    """The files of a slice's cgroup and what is written to them, the needed ones first."""
    wanted = {"pids.max": str(settings.processes)}
    if share.memory_bytes and settings.memory:
        wanted |= {"memory.max": str(share.memory_bytes), "memory.swap.max": "0", "memory.oom.group": "1"}
    if share.cpu_milli:
        wanted["cpu.weight"] = str(min(max(share.cpu_milli // 10, 1), 10_000))  # a core weighs 100, as by default
        if settings.cpu_burst:
            quota_us = int(share.cpu_milli / 1000 * settings.cpu_burst * _CPU_PERIOD_US)
            wanted["cpu.max"] = f"{max(quota_us, 1000)} {_CPU_PERIOD_US}"
    return wanted


def _enable(folder: Path) -> None:
    available = (folder / "cgroup.controllers").read_text().split()
    missing = [each for each in _CONTROLLERS if each not in available]
    if missing:
        raise OSError(f"has no controller {', '.join(missing)}")
    (folder / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in _CONTROLLERS))


def _make(folder: Path, wanted: Mapping[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, value in wanted.items():
        path = folder / name
        if name == "memory.swap.max" and not path.exists():
            continue  # a kernel without swap accounting
        path.write_text(value)


def _kill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "cgroup.kill").open("r+") as file:
        file.write("1")


async def _remove(folder: Path) -> None:
    for _ in range(100):
        try:
            await asyncio.to_thread(folder.rmdir)
        except FileNotFoundError:
            return
        except OSError:
            await asyncio.sleep(0.02)  # the killed are still leaving
        else:
            return
    log.warning("cgroup could not be removed", folder=str(folder))
