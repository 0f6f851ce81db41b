"""Jobs with what they print and measure, and artifacts."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty

from lepton.errors import FailedPrecondition, NotFound
from lepton.trainer.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    trainer_service_pb2,
    trainer_service_pb2_grpc,
)
from lepton.trainer.v1.job_pb2 import Job
from tests.harness.small_lepton.servicer import Servicer

CHUNK = 1 << 16


class Trainer(Servicer, trainer_service_pb2_grpc.TrainerServiceServicer):
    async def CreateJob(self, request: Any, context: Any) -> Any:
        request.job.name = f"{request.parent}/jobs/{request.job_id}"
        request.job.state = Job.PENDING
        return self.world.once(request, lambda: self.world.table(Job).add(request.job))

    async def GetJob(self, request: Any, context: Any) -> Any:
        return self.world.table(Job).get(request.name)

    async def ListJobs(self, request: Any, context: Any) -> Any:
        page = self.world.table(Job).page(f"{request.parent}/jobs/", request, "jobs")
        return trainer_service_pb2.ListJobsResponse(**page)

    async def WatchJobs(self, request: Any, context: Any) -> AsyncIterator[Any]:
        rows = self.world.table(Job).watch(f"{request.parent}/jobs/", request.revision, request.name)
        async for event, revision, job in rows:
            yield trainer_service_pb2.WatchJobsResponse(event=event, revision=revision, job=job)

    async def CancelJob(self, request: Any, context: Any) -> Any:
        return self.world.table(Job).change(request.name, state=Job.CANCELLED)

    async def DeleteJob(self, request: Any, context: Any) -> Any:
        job = self.world.table(Job).get(request.name)
        if job.state < Job.SUCCEEDED:
            raise FailedPrecondition("JOB_NOT_ENDED", job=request.name)
        self.world.table(Job).remove(request.name)
        return Empty()

    async def StreamLogs(self, request: Any, context: Any) -> AsyncIterator[Any]:
        wanted = [
            line
            for line in self.world.lines[request.name]
            if line.offset > request.offset and (not request.ranks or line.rank in request.ranks)
        ]
        offset = wanted[-request.tail_lines :][0].offset - 1 if request.tail_lines and wanted else request.offset
        while True:
            bell = self.world.log.bell
            for line in self.world.lines[request.name][offset:]:
                offset = line.offset
                if not request.ranks or line.rank in request.ranks:
                    yield trainer_service_pb2.StreamLogsResponse(lines=[line])
            if not request.follow or self.world.table(Job).get(request.name).state >= Job.SUCCEEDED:
                return
            await bell.wait()

    async def StreamMetrics(self, request: Any, context: Any) -> AsyncIterator[Any]:
        offset = request.offset
        if request.max_points and (points := self.world.points[request.name][offset:]):
            for point in (points[0], points[-1]):
                yield trainer_service_pb2.StreamMetricsResponse(points=[point])
            offset = points[-1].offset
        while True:
            bell = self.world.log.bell
            for point in self.world.points[request.name][offset:]:
                offset = point.offset
                yield trainer_service_pb2.StreamMetricsResponse(points=[point])
            if not request.follow or self.world.table(Job).get(request.name).state >= Job.SUCCEEDED:
                return
            await bell.wait()


class Artifacts(Servicer, artifact_service_pb2_grpc.ArtifactServiceServicer):
    async def UploadArtifact(self, requests: Any, context: Any) -> Any:
        parent, data = "", b""
        async for request in requests:
            parent = parent or request.parent
            assert len(request.data) <= 1 << 20
            data += request.data
        digest = hashlib.sha256(data).hexdigest()
        name = f"{parent}/artifacts/{digest}"
        self.world.artifacts[name] = data
        return artifact_service_pb2.Artifact(name=name, digest=f"sha256:{digest}", size_bytes=len(data))

    async def GetArtifact(self, request: Any, context: Any) -> Any:
        data, digest = self._data(request.name), request.name.rpartition("/")[2]
        return artifact_service_pb2.Artifact(name=request.name, digest=f"sha256:{digest}", size_bytes=len(data))

    async def DownloadArtifact(self, request: Any, context: Any) -> AsyncIterator[Any]:
        data = self._data(request.name)
        for begin in range(request.offset, len(data), CHUNK):
            yield artifact_service_pb2.DownloadArtifactResponse(data=data[begin : begin + CHUNK])

    def _data(self, name: str) -> bytes:
        if name not in self.world.artifacts:
            raise NotFound("ARTIFACT_NOT_FOUND", artifact=name)
        return self.world.artifacts[name]
