"""Seals what is stored by the newest keys of its project, without writing it again, and has former keys destroyed.

A round looks at the projects that have more than one key. Nothing is remembered between rounds, and what was wrapped
anew stays so: a crash at any point costs the next round a look at each header. Several trainers may do it at once.
"""

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.artifact_keys import ArtifactKeys
from chassis.artifacts import ArtifactStore
from chassis.clock import Clock
from chassis.logs import logger
from lepton.artifacts import CHECKPOINTS, UPLOADS
from lepton.errors import InvalidArgument, LeptonError
from lepton.internal.v1.project_keys_pb2 import ReportRewrappedRequest
from lepton.internal.v1.project_keys_pb2_grpc import ProjectKeyServiceStub
from lepton.names import ProjectName

log = logger(__name__)


class Rewrapper:
    """Goes through all projects again and again."""

    def __init__(
        self, artifacts: ArtifactStore, keys: ArtifactKeys, auth: grpc.aio.Channel, clock: Clock, *, every_s: float
    ) -> None:
        self._artifacts, self._keys, self._clock, self._every_s = artifacts, keys, clock, every_s
        self._auth: Any = ProjectKeyServiceStub(auth)

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._clock.sleep(self._every_s)
            try:
                await self.round()
            except (LeptonError, OSError) as error:
                log.warning("sealing by the newest keys failed; it is tried again", why=str(error))

    async def round(self) -> None:
        """Once through all projects; what goes wrong with one does not keep the others waiting."""
        for project in await self._artifacts.projects():
            try:
                ProjectName(project)
                await self._rewrap(project)
            except InvalidArgument:
                continue  # a folder that is no project's
            except LeptonError as error:
                if error.reason not in ("PROJECT_SHREDDED", "PROJECT_NOT_FOUND"):
                    log.warning("a project is not sealed by its newest key yet", project=project, why=str(error))

    async def _rewrap(self, project: str) -> None:
        begin = Timestamp()
        begin.FromDatetime(self._clock.now())
        keys = await self._keys.learn(project, anew=True)
        if len(keys) < 2:
            return
        left = sum([await self._artifacts.rewrap(project, area=area) for area in ("", CHECKPOINTS, UPLOADS)])
        if left:
            log.error("artifacts cannot be sealed by the newest key; the former stays", project=project, left=left)
            return
        newest = next(iter(keys))
        request = ReportRewrappedRequest(project=f"projects/{project}", key_id=newest, begin_time=begin)
        answer = await self._auth.ReportRewrapped(request)
        if answer.destroyed:
            log.info("former keys of artifacts destroyed", project=project, keys=len(answer.destroyed))
