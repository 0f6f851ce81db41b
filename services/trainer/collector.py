"""Deletes what checkpoints that were dropped have left in the artifact store.

Ranks store in an area of its own, so whatever is deleted here was never a dataset, a bundle or a package. A file stays
as long as a checkpoint of any job of the project lists it, and in any case for a grace after it was last stored: what a
rank has just written is not part of a checkpoint yet, and storing equal bytes again begins the grace anew. Nothing is
remembered between two rounds, so a crash at any point costs the next one nothing.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Final

from chassis.artifacts import ArtifactStore
from chassis.clock import Clock
from chassis.kv import KV, KVError, list_all
from chassis.logs import logger
from lepton.artifacts import CHECKPOINTS, UPLOADS, Digest, Listed
from lepton.errors import InvalidArgument, LeptonError
from lepton.names import ProjectName
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from services.trainer.manifests import checkpoint_files
from services.trainer.store import project_checkpoints_prefix
from services.trainer.uploads import KEEP_S

log = logger(__name__)
_REMEMBERED: Final = 4096
_UPLOAD_GRACE_S: Final = 3600.0


class Collector:
    """Goes through all projects again and again; several may do so at once."""

    def __init__(self, kv: KV, artifacts: ArtifactStore, clock: Clock, *, every_s: float, grace_s: float) -> None:
        self._kv, self._artifacts, self._clock = kv, artifacts, clock
        self._every_s, self._grace_s = every_s, grace_s
        self._listed: OrderedDict[tuple[str, str], frozenset[str]] = OrderedDict()  # of manifests, which never change

    async def run(self) -> None:
        """Collects for ever."""
        while True:
            await self._clock.sleep(self._every_s)
            try:
                await self.collect()
            except (LeptonError, KVError, OSError) as error:
                log.warning("collecting artifacts failed; it is tried again", why=str(error))

    async def collect(self) -> int:
        """One round; how many files were deleted."""
        return sum(
            [await self._collect(project) for project in await self._artifacts.projects() if _is_project(project)]
        )

    async def _collect(self, project: str) -> int:
        older_than = self._clock.now().timestamp() - self._grace_s
        # Listed first: what a checkpoint that is committed from here on lists was stored within the grace.
        listed = await self._artifacts.listing(project, area=CHECKPOINTS)
        await self._collect_uploads(project)
        await self._artifacts.sweep(project, area=CHECKPOINTS, older_than=older_than)
        if not listed:
            return 0
        try:
            used = await self._used(project)
        except LeptonError as error:
            # What a manifest that cannot be read lists is not known, so nothing is known to be unused.
            log.warning("a manifest cannot be read; nothing of its project is deleted", project=project, why=str(error))
            return 0
        removed = await self._artifacts.remove(unused(listed, used, older_than), older_than=older_than)
        if removed:
            log.info("dropped checkpoints deleted", project=project, files=removed)
        return removed

    async def _collect_uploads(self, project: str) -> None:
        """The parts of uploads are of no use when the list of them has run out, and for an hour more."""
        older_than = self._clock.now().timestamp() - KEEP_S - _UPLOAD_GRACE_S
        parts = [found for _, found in await self._artifacts.listing(project, area=UPLOADS)]
        await self._artifacts.remove((part for part in parts if part.modified < older_than), older_than=older_than)

    async def _used(self, project: str) -> set[str]:
        page = await list_all(self._kv, project_checkpoints_prefix(project))
        used: set[str] = set()
        for entry in page.entries:
            manifest = Checkpoint.FromString(entry.value).manifest
            used.add(manifest)
            used |= await self._files(project, manifest)
        return used

    async def _files(self, project: str, manifest: str) -> frozenset[str]:
        key = (project, manifest)
        if key not in self._listed:
            self._listed[key] = frozenset(await checkpoint_files(self._artifacts, project, manifest))
            while len(self._listed) > _REMEMBERED:
                self._listed.popitem(last=False)
        self._listed.move_to_end(key)
        return self._listed[key]


def unused(listed: Iterable[tuple[Digest, Listed]], used: Collection[str], older_than: float) -> list[Listed]:
    """The stored files that no checkpoint lists and that were last stored before `older_than`; pure."""
    return [found for digest, found in listed if digest not in used and found.modified < older_than]


def _is_project(name: str) -> bool:
    try:
        ProjectName(project=name)
    except InvalidArgument:
        return False
    return True
