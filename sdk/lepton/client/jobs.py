"""`client.jobs`: training."""

from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import aclosing
from typing import Final

from lepton.client.artifacts import Artifacts
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.client.scripts import submit_script
from lepton.client.secrets import complete
from lepton.client.watching import Change, Watch, awaited, in_states
from lepton.curves import Curves
from lepton.names import JobName
from lepton.script import Prepared, Script
from lepton.trainer.v1 import trainer_service_pb2 as pb
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub

ENDED: Final = frozenset({Job.SUCCEEDED, Job.FAILED, Job.CANCELLED})


class Jobs(Group):
    """Submits, follows and stops training jobs, and reads what they print and measure."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = TrainerServiceStub(calls.channel("trainer"))

    async def create(self, job_id: str, job: Job, *, project: str | None = None, request_id: str = "") -> Job:
        """Submit a job. AlreadyExists, NotFound (the dataset or the code)."""
        parent = self._scope.parent(project)
        request = pb.CreateJobRequest(parent=parent, job_id=job_id, job=job, request_id=request_id or new_request_id())
        complete(request.job.secrets, parent)
        return await self._calls.unary(self._stub.CreateJob, request)

    async def submit_script(
        self,
        job_id: str,
        script: Script | Prepared,
        job: Job | None = None,
        *,
        project: str | None = None,
        request_id: str = "",
    ) -> Job:
        """Submit a script of one's own with its folder and data; `job` holds the rest. Raises what `create` raises."""
        artifacts = Artifacts(self._calls, self._scope)
        return await submit_script(self, artifacts, job_id, script, job, project=project, request_id=request_id)

    async def get(self, job: str) -> Job:
        """A job by id or name."""
        return await self._calls.unary(self._stub.GetJob, pb.GetJobRequest(name=self._name(job)))

    def list(self, *, project: str | None = None, page_size: int = 0) -> Listing[Job]:
        """The jobs of a project."""
        parent = self._scope.parent(project)

        async def page(token: str) -> Page[Job]:
            request = pb.ListJobsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListJobs, request)
            return answer.jobs, answer.next_page_token

        return Listing(page)

    async def watch(self, job: str) -> AsyncGenerator[Job, None]:
        """The job as it is, then after every change; ends when it is deleted."""
        name = self._name(job)
        async with aclosing(self._watch(name).changes()) as changes:
            async for change in changes:
                if change.is_deleted:
                    return
                yield change.resource

    def watch_all(self, *, project: str | None = None, revision: int = 0) -> AsyncGenerator[Change[Job], None]:
        """The jobs of a project as they are, then every change, for ever."""
        return self._watch("", self._scope.parent(project), revision).changes()

    async def wait(
        self,
        job: str,
        *,
        states: int | Collection[int] = ENDED,
        until: Callable[[Job], bool] | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """The job when it is in one of the states (or `until` says so), or has ended anyhow. DeadlineExceeded."""
        name, wished = self._name(job), in_states(states)
        return await awaited(
            name,
            lambda: self.get(name),
            lambda known: self._watch(name, known=(known,)),
            lambda each: (until(each) if until else each.state in wished) or each.state in ENDED,
            timeout_s,
        )

    async def cancel(self, job: str) -> Job:
        """Stop a job; `wait` says when it has ended."""
        return await self._calls.unary(self._stub.CancelJob, pb.CancelJobRequest(name=self._name(job)))

    async def delete(self, job: str, *, etag: str = "") -> None:
        """Delete a job that has ended, with its logs and checkpoints."""
        await self._calls.unary(self._stub.DeleteJob, pb.DeleteJobRequest(name=self._name(job), etag=etag))

    def checkpoints(self, job: str, *, page_size: int = 0) -> Listing[Checkpoint]:
        """A job's checkpoints, newest first."""
        name = self._name(job)

        async def page(token: str) -> Page[Checkpoint]:
            request = pb.ListCheckpointsRequest(parent=name, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListCheckpoints, request)
            return answer.checkpoints, answer.next_page_token

        return Listing(page)

    async def logs(
        self, job: str, *, follow: bool = False, offset: int = 0, ranks: Collection[int] = (), tail: int = 0
    ) -> AsyncGenerator[pb.LogLine, None]:
        """The lines that the job's ranks print, behind `offset`; with `follow` until the job has ended.

        With `tail` only the last so many of those that are there already. Each line's `offset` is where to go on later.
        """
        name, begun = self._name(job), offset

        def begin() -> pb.StreamLogsRequest:
            tail_lines = tail if offset == begun else 0  # the rest follows on what was received
            return pb.StreamLogsRequest(name=name, offset=offset, follow=follow, ranks=ranks, tail_lines=tail_lines)

        async for answer in self._calls.stream(lambda: self._stub.StreamLogs(begin())):
            for line in answer.lines:
                if line.offset > offset:
                    offset = line.offset
                    yield line

    async def metrics(
        self, job: str, *, follow: bool = False, offset: int = 0, max_points: int = 0
    ) -> AsyncGenerator[pb.MetricPoint, None]:
        """What the job measures, behind `offset`; with `follow` until the job has ended.

        With `max_points` about so many of those that are there already: the ends and the peaks of every series stay.
        Each point's `offset` is where to go on later.
        """
        name, begun = self._name(job), offset

        def begin() -> pb.StreamMetricsRequest:
            most = max_points if offset == begun else 0
            return pb.StreamMetricsRequest(name=name, offset=offset, follow=follow, max_points=most)

        async for answer in self._calls.stream(lambda: self._stub.StreamMetrics(begin())):
            for point in answer.points:
                if point.offset > offset:
                    offset = point.offset
                    yield point

    async def curves(self, job: str, *, max_points: int = 0) -> Curves:
        """What the job has measured so far, by metric; readable also when the job and its nodes are gone."""
        found = await self.get(job)
        return Curves(job=found, points=[point async for point in self.metrics(found.name, max_points=max_points)])

    def _watch(self, name: str, parent: str = "", revision: int = 0, known: Iterable[Job] = ()) -> Watch[Job]:
        parent = parent or str(JobName.parse(name).parent)
        return Watch(
            self._calls,
            Job,
            lambda position: self._stub.WatchJobs(pb.WatchJobsRequest(parent=parent, name=name, revision=position)),
            revision,
            known,
        )

    def _name(self, job: str) -> str:
        return self._scope.name(JobName, job)
