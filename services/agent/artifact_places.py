"""Where the slices of each project find the artifact store, and the keys of their own project's artifacts.

A project's keys lie in a file that its slices can read and no other's; nothing of it is in an argument or an
environment, which only name the file. Auth gives the keys of a project to a node that runs something of it; once it no
longer does, or the project's keys are destroyed, the file goes.
"""

import asyncio
import base64
import contextlib
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from chassis.artifact_keys import ENDED, FRESH_S, ArtifactKeys
from chassis.clock import Clock
from chassis.logs import logger
from lepton.errors import LeptonError, PermissionDenied

log = logger(__name__)

FILE: Final = "artifact.keys"
_SHARED: Final = "/dev/shm"  # noqa: S108 (of the machine: a rule on a part of it would forbid ranks all of theirs)
_PATIENCE_S: Final = 10.0  # the scheduler's replica that auth asks may be behind the one that gave the order
_PAUSE_S: Final = 0.2
_REFUSALS: Final = 2  # of a project, one after the other, before its keys are taken away


class ArtifactPlaces:
    """The store's URL for each project. `owner` is the user of a project's slices, None for the agent's own.

    `ended` is called with a project whose keys were destroyed, or which is gone: what this node keeps of it can go too.
    """

    def __init__(
        self,
        url: str,
        root: Path,
        keys: ArtifactKeys,
        clock: Clock,
        owner: Callable[[str], int | None],
        ended: Callable[[str], Awaitable[None]],
    ) -> None:
        self._url, self._root, self._keys, self._clock = url.partition("#")[0], root, keys, clock
        self._owner, self._ended = owner, ended
        self._written: dict[str, Mapping[str, bytes]] = {}
        self._refused: dict[str, int] = {}
        self._preparing: dict[str, asyncio.Lock] = {}

    def clear(self) -> None:
        """Remove what a former agent left."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True, mode=0o711)  # users of jobs pass through it to their own folders

    def url(self, project: str) -> str:
        """The store as slices of a project open it."""
        return f"{self._url}#key_file={self._file(project)}"

    def shown(self, project: str) -> tuple[Path, ...]:
        """What slices of a project must be able to read for it."""
        return (self._file(project).parent,)

    async def ready(self, project: str) -> None:
        """Returns once the store can be opened by what `url` says.

        Raises Unavailable, NotFound, PermissionDenied, FailedPrecondition (PROJECT_SHREDDED).
        """
        async with self._preparing.setdefault(project, asyncio.Lock()):
            deadline_s = self._clock.monotonic() + _PATIENCE_S
            while True:
                try:
                    keys = await self._keys.learn(project)
                    break
                except PermissionDenied:
                    if self._clock.monotonic() >= deadline_s:
                        raise
                await self._clock.sleep(_PAUSE_S)
            await self._write(project, keys)

    async def run(self) -> None:
        """Keep the files as auth has it, for ever."""
        while True:
            await self._clock.sleep(FRESH_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Ask for the keys of every project that has a file here."""
        for project in [*self._written]:
            async with self._preparing.setdefault(project, asyncio.Lock()):
                try:
                    await self._write(project, await self._keys.learn(project, anew=True))
                    self._refused.pop(project, None)
                except PermissionDenied:
                    self._refused[project] = self._refused.get(project, 0) + 1
                    if self._refused[project] >= _REFUSALS:
                        await self._remove(project)
                except LeptonError as error:
                    if error.reason in ENDED:
                        await self._remove(project)
                        await self._ended(project)
                        continue
                    log.warning("keys of artifacts not refreshed; it is tried again", project=project, error=error)

    async def _write(self, project: str, keys: Mapping[str, bytes]) -> None:
        if self._written.get(project) != keys:
            await asyncio.to_thread(write_keys, self._file(project), keys, self._owner(project))
            self._written[project] = keys

    async def _remove(self, project: str) -> None:
        self._written.pop(project, None)
        self._refused.pop(project, None)
        self._keys.forget(project)
        await asyncio.to_thread(shutil.rmtree, self._file(project).parent, ignore_errors=True)
        log.info("keys of artifacts removed", project=project)

    def _file(self, project: str) -> Path:
        return self._root / project / FILE


def keys_folder(in_memory: Path | None, state_dir: Path) -> Path:
    """The folder of the key files: in memory, where it can be hidden from the slices of other projects there."""
    if in_memory is None or in_memory.is_relative_to(_SHARED):
        return state_dir / "keys"
    return in_memory.with_name(f"{in_memory.name}-keys")


def write_keys(file: Path, keys: Mapping[str, bytes], uid: int | None) -> None:
    """Write a key file (lepton.artifacts.KeyFile) that one user can read, replacing a former one at once."""
    folder = file.parent
    folder.mkdir(mode=0o700, exist_ok=True)
    draft = folder / f".{file.name}.{secrets.token_hex(4)}"
    text = "".join(f"{name} {base64.b64encode(key).decode()}\n" for name, key in keys.items())
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400), "w") as target:
            target.write(text)
            if uid is not None:
                os.fchown(target.fileno(), uid, uid)
        if uid is not None:
            os.chown(folder, uid, uid)
        draft.rename(file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
