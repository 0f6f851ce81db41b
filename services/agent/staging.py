"""Puts in place what a job's ranks run: the built-in program, or the user's code with its data and its packages."""

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from chassis.clock import Clock
from lepton.artifacts import ArtifactStore
from lepton.errors import LeptonError
from lepton.internal.v1.run_report_pb2 import RunCode
from services.agent import bundle, requirements
from services.agent.confinement import Confinement
from services.agent.digest_cache import DigestCache, make_read_only
from services.agent.environment import checked, checked_argv
from services.agent.requirements import PipSettings
from services.agent.work import WorkFolders

Result = TypeVar("Result")
_SINGLE: Final = "data"  # what a dataset that is no archive is called


class DataUnusable(Exception):
    """The data of a job cannot be laid out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What the ranks of one gang run on this node."""

    entry: str  # see RankLaunch
    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None  # None: the rank's own folder
    data: str = ""  # where its data lies
    python: Path | None = None  # the interpreter with its packages; None: the launcher's
    shown: tuple[Path, ...] = ()  # folders that it must be able to read


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """How much a node keeps of what jobs were given."""

    code_bytes: int = 4 << 30
    data_bytes: int = 64 << 30
    environment_bytes: int = 32 << 30
    model_bytes: int = 64 << 30  # of files that replicas serve; 0 = none are kept


class Staging:
    """The node's caches of code, data and environments, and how a gang's program is put together of them."""

    def __init__(
        self, *, root: Path, folders: WorkFolders, clock: Clock, sizes: CacheSettings, pip: PipSettings
    ) -> None:
        self._folders, self._pip = folders, pip
        self._code = DigestCache(root / "code", most_bytes=sizes.code_bytes, clock=clock)
        self._data = DigestCache(root / "data", most_bytes=sizes.data_bytes, clock=clock)
        self._environments = DigestCache(root / "environments", most_bytes=sizes.environment_bytes, clock=clock)

    def clear_up(self) -> None:
        """Remove what an agent that was killed has left half made."""
        for each in (self._code, self._data, self._environments):
            each.clear_up()

    async def forget(self, project: str) -> None:
        """Drop what is kept of a project that is gone, but for what is held."""
        for each in (self._code, self._data):
            await each.drop(lambda key: is_of(key, project))

    async def stage(
        self,
        code: RunCode,
        *,
        artifacts: ArtifactStore,
        project: str,
        run_id: str,
        confinement: Confinement,
        until: AsyncExitStack,
    ) -> Staged:
        """Lay out a user's program for one gang, from the store as its project opens it, until the stack is closed.

        LeptonError when the code or its requirements cannot be used, DataUnusable when the data cannot.
        """
        environment, argv = checked(code.environment), checked_argv(code.argv)
        uid = confinement.uid

        async def unpack_code(folder: Path) -> Mapping[str, Any]:
            return await _in_thread(lambda is_over: _unpack_code(artifacts, project, code.digest, folder, is_over))

        key = _key(project, code.digest)
        pristine = await until.enter_async_context(self._code.hold(key, unpack_code))
        folder = await until.enter_async_context(self._folders.open(f"{run_id}.code"))
        place = folder / "bundle"
        await asyncio.to_thread(_copy, pristine.folder, place, uid)
        cwd = bundle.working_directory(place, code.working_directory)
        python = await self._environment(place, code.requirements, confinement, until) if code.requirements else None
        return Staged(
            entry=code.module or str(bundle.entry_point(place, code.entry_point)),
            argv=argv,
            environment=environment,
            cwd=cwd,
            data=await self._stage_data(artifacts, code.data, project, uid, until) if code.data else "",
            python=python,
            shown=(folder, *([python.parents[1]] if python is not None else ())),
        )

    async def _stage_data(
        self, artifacts: ArtifactStore, digest: str, project: str, uid: int | None, until: AsyncExitStack
    ) -> str:
        async def lay_out(folder: Path) -> Mapping[str, Any]:
            facts = await _in_thread(lambda is_over: _lay_out_data(artifacts, project, digest, folder, is_over))
            _show_only_to(folder, uid)
            return facts

        try:
            kept = await until.enter_async_context(self._data.hold(_key(project, digest), lay_out))
        except LeptonError as error:
            raise DataUnusable(f"the data {digest[:19]} cannot be used: {error}") from error
        return str(kept.folder / kept.facts["name"])

    async def _environment(self, place: Path, name: str, confinement: Confinement, until: AsyncExitStack) -> Path:
        path = bundle.requirements_file(place, name)
        text = requirements.checked(await asyncio.to_thread(path.read_bytes))

        async def make(folder: Path) -> Mapping[str, Any]:
            facts = await requirements.build(text, folder, pip=self._pip, confinement=confinement)
            await asyncio.to_thread(make_read_only, folder)
            _show_only_to(folder, confinement.uid)
            return facts

        key = f"{'node' if confinement.uid is None else confinement.uid}-{requirements.key_of(text)}"
        kept = await until.enter_async_context(self._environments.hold(key, make))
        return Path(kept.facts["python"])


def _unpack_code(
    store: ArtifactStore, project: str, digest: str, folder: Path, is_over: Callable[[], bool]
) -> Mapping[str, Any]:
    archive = folder.with_name(f"{folder.name}.tar")
    try:
        store.fetch_to(project, digest, archive)
        bundle.unpack(archive, folder, bundle.CODE, is_over=is_over)
    finally:
        archive.unlink(missing_ok=True)
    make_read_only(folder)
    folder.chmod(0o500)  # ranks get copies
    return {}


def _lay_out_data(
    store: ArtifactStore, project: str, digest: str, folder: Path, is_over: Callable[[], bool]
) -> Mapping[str, Any]:
    whole = folder / _SINGLE
    store.fetch_to(project, digest, whole)
    name = _SINGLE
    if bundle.is_data(whole):
        archive = whole.rename(folder.with_name(f"{folder.name}.tar"))
        try:
            name = bundle.unpack(archive, folder, bundle.DATA, is_over=is_over).single
        finally:
            archive.unlink(missing_ok=True)
    make_read_only(folder)
    return {"name": name}


async def _in_thread(work: Callable[[Callable[[], bool]], Result]) -> Result:
    """Work in a thread; when it is cancelled, the thread is told, and has ended when this returns."""
    over = threading.Event()
    working = asyncio.ensure_future(asyncio.to_thread(work, over.is_set))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        over.set()
        await asyncio.wait({working})
        working.exception()  # marks it as seen
        raise


def _copy(pristine: Path, place: Path, uid: int | None) -> None:
    """A writable copy of a tree, the user's own where there is one; links as links, for they lead within it."""
    shutil.copytree(pristine, place, symlinks=True)
    for folder, _, files in os.walk(place):
        for path in (Path(folder), *(Path(folder) / name for name in files)):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o200 | (0o100 if path.is_dir() else 0))
            if uid is not None:
                os.chown(path, uid, uid, follow_symlinks=False)


def _show_only_to(folder: Path, uid: int | None) -> None:
    # Its root is the agent's own, with the project's group: others cannot enter, and nobody else can change it.
    if uid is not None:
        os.chown(folder, os.geteuid(), uid)
        folder.chmod(0o550)


def is_of(key: str, project: str) -> bool:
    """Whether something kept belongs to a project, by its key: the project's id and a digest."""
    return key.rpartition("-")[0] == project


def _key(project: str, digest: str) -> str:
    # By project: that somebody else's bytes lie here must not save anybody the question whether he may read them.
    return f"{project}-{digest.removeprefix('sha256:')}"
