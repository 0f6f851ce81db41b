"""Gives shared models their places, and their projects the servers that takes; the leader's work."""

import asyncio
import uuid
from contextlib import aclosing, suppress
from typing import Final, Protocol

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import Clock, wait_for_event
from chassis.election import Election
from chassis.kv import KV, Compare, Delete, follow
from chassis.logs import logger
from chassis.resources import now
from lepton.errors import Aborted, AlreadyExists, FailedPrecondition, LeptonError, NotFound
from lepton.internal.v1.model_server_pb2 import SharedModel
from lepton.names import DeploymentName, WorkloadName
from lepton.scheduler.v1.program_pb2 import Program, TritonProgram
from lepton.scheduler.v1.resources_pb2 import Resources
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest, UpdateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import SliceGroup, Workload
from services.inference.autoscaling.keys import WAKES, marked, wake_key
from services.inference.shared.board import SharedBoard
from services.inference.shared.placement import Model, Server, fresh, plan
from services.inference.shared.registry import OWNER, seconds, servers_name, shared_models, to_plan
from services.inference.shared.settings import SharedSettings
from services.inference.store import deployments

log = logger(__name__)
_SETTLE_S: Final = 0.05
_TICK_S: Final = 5.0
"""Failures are forgotten and ages reached though nothing happens."""
_RETRY_S: Final = 0.5
_RESTARTS: Final = 1000
_SERVER_BYTES: Final = 160 << 20
"""What a server takes itself, before its first model."""
_ENDED: Final = frozenset({Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})


class Workloads(Protocol):
    """What is needed of the scheduler."""

    async def create(self, request: CreateWorkloadRequest) -> Workload | None:
        """Creates a workload, or finds what has become of it: None when it is deleted already."""
        ...

    async def update(self, request: UpdateWorkloadRequest) -> Workload:
        """Changes a workload."""
        ...

    async def cancel(self, name: str) -> None:
        """Stops a workload."""
        ...

    async def delete(self, name: str) -> None:
        """Deletes a workload that has ended."""
        ...


class SharedPlacer:
    """Plans again whenever a model, a server or a mark of a call has changed, as long as it leads."""

    def __init__(
        self,
        kv: KV,
        election: Election,
        workloads: Workloads,
        board: SharedBoard,
        clock: Clock,
        settings: SharedSettings | None = None,
    ) -> None:
        self._kv, self._election, self._workloads, self._board = kv, election, workloads, board
        self._clock, self._settings = clock, settings or SharedSettings()
        self._shared = shared_models(kv)
        self._projects: set[str] = set()

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        await self._board.is_complete.wait()
        while True:
            async with self._election.lead() as leadership, asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._place(leadership.guard)),
                    tasks.create_task(self._follow_calls(leadership.guard)),
                ]
                await leadership.lost.wait()
                for task in running:
                    task.cancel()

    async def _place(self, guard: Compare) -> None:
        while True:
            changed, pause_s = self._board.changed, _TICK_S
            projects = {WorkloadName.parse(name).project for name in (*self._board.models, *self._board.workloads)}
            for project in sorted(projects):
                try:
                    await self._place_project(project, guard)
                except LeptonError as error:
                    log.warning("shared models not placed", project=project, reason=error.reason, problem=str(error))
                    pause_s = _RETRY_S
            await wait_for_event(changed, pause_s, self._clock)
            await self._clock.sleep(_SETTLE_S)

    async def _place_project(self, project: str, guard: Compare) -> None:
        models = {
            id_: to_plan(model)
            for id_, model in self._board.models.items()
            if WorkloadName.parse(id_).project == project
        }
        workload = self._board.workloads.get(str(servers_name(project)))
        asked = workload.groups[0].max_count if workload is not None else 0
        stamp = now()
        capacity = self._settings.memory_bytes - _SERVER_BYTES
        servers = [
            Server(endpoint=endpoint, node=piece.node, capacity_bytes=capacity)
            for endpoint, piece in sorted(self._board.ready(project).items())
        ]
        limits = self._settings.limits
        planned = plan(list(models.values()), servers, asked, seconds(stamp), limits)
        nodes = {server.endpoint: server.node for server in servers}
        # Those that make room first: until they are unloaded nobody else has their memory.
        for id_, after in sorted(planned.models.items(), key=lambda each: len(each[1].places)):
            await self._write(id_, models[id_], after, nodes, stamp, guard)
        for id_, why in planned.waiting.items():
            await self._explain(id_, why, guard)
        await self._serve(project, workload, planned.servers)

    async def _write(
        self, id_: str, before: Model, after: Model, nodes: dict[str, str], stamp: Timestamp, guard: Compare
    ) -> None:
        """Carries one model's plan out, unless the model has changed since."""

        def move(current: SharedModel) -> None:
            if to_plan(current) != before:
                raise Aborted("WRITE_CONFLICT", name=id_)
            current.wanted = after.wanted
            kept = [each for each in current.placements if each.endpoint in after.endpoints]
            del current.placements[:]
            current.placements.extend(kept)
            for place in after.places:
                if place.endpoint not in before.endpoints:
                    current.placements.add(endpoint=place.endpoint, node=nodes[place.endpoint], assign_time=stamp)
            del current.failures[: len(before.failures) - len(fresh(before, seconds(stamp), self._settings.limits))]
            if not after.wanted:
                current.message = "it made room for another model; a call loads it again"

        try:
            changed = await self._shared.change(WorkloadName.parse(id_), move, guard=[guard])
        except NotFound:
            return
        log.info("shared model placed", model=id_, servers=",".join(each.endpoint for each in changed.placements))

    async def _explain(self, id_: str, why: str, guard: Compare) -> None:
        def explain(current: SharedModel) -> None:
            if not current.placements and not current.failures:
                current.message = why

        if self._board.models[id_].message != why:
            await self._shared.change(WorkloadName.parse(id_), explain, guard=[guard])

    async def _serve(self, project: str, workload: Workload | None, count: int) -> None:
        """Brings the project's servers to as many as are needed."""
        name = servers_name(project)
        if workload is not None and workload.state != Workload.CANCELLING and (workload.state in _ENDED or not count):
            try:
                await (self._workloads.delete if workload.state in _ENDED else self._workloads.cancel)(str(name))
            except (NotFound, FailedPrecondition) as error:
                log.info("shared servers end by themselves", workload=str(name), reason=error.reason)
        elif workload is None and count:
            with suppress(AlreadyExists):  # it was made a moment ago, and the feed has not told of it
                await self._workloads.create(self._request(name, count))
        elif workload is not None and workload.groups[0].max_count != count and workload.state != Workload.CANCELLING:
            wanted = Workload(name=str(name), groups=[self._group(count)])
            mask = FieldMask(paths=["groups"])
            await self._workloads.update(UpdateWorkloadRequest(workload=wanted, update_mask=mask))

    def _request(self, name: WorkloadName, count: int) -> CreateWorkloadRequest:
        workload = Workload(
            owner=f"projects/{name.project}/{OWNER}",
            kind=Workload.SERVING,
            groups=[self._group(count)],
            max_restarts=_RESTARTS,
        )
        return CreateWorkloadRequest(
            parent=str(name.parent), workload_id=name.workload, workload=workload, request_id=str(uuid.uuid4())
        )

    def _group(self, count: int) -> SliceGroup:
        resources = Resources(cpu_milli=self._settings.cpu_milli, memory_bytes=self._settings.memory_bytes)
        program = Program(triton=TritonProgram(shared=True))
        return SliceGroup(name="server", min_count=1, max_count=count, resources=resources, program=program)

    async def _follow_calls(self, guard: Compare) -> None:
        """A call that was held for a deployment without a server loads its models again."""
        async with aclosing(follow(self._kv, WAKES)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.entry is not None:
                        await self._want(str(marked(event.key)), guard)

    async def _want(self, deployment: str, guard: Compare) -> None:
        def want(current: SharedModel) -> None:
            if not current.wanted:
                current.wanted = True
                current.last_use_time.CopyFrom(now())

        owned = [id_ for id_, model in self._board.models.items() if model.workload.owner == deployment]
        for id_ in owned:
            with suppress(NotFound):
                await self._shared.change(WorkloadName.parse(id_), want, guard=[guard])
        name = DeploymentName.parse(deployment)
        found = await deployments(self._kv).find(name)
        if owned and found is not None and not found.HasField("autoscaling"):  # else its autoscaler removes the mark
            await self._kv.txn([guard], [Delete(wake_key(name))])
