"""A whole Lepton as clients see it, in this process: the generated servicers over in-memory state, on real TLS."""

import asyncio
import hashlib
import itertools
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.empty_pb2 import Empty
from grpc_status import rpc_status
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lepton.auth.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    directory_service_pb2,
    directory_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from lepton.auth.v1.principal_pb2 import ApiKey, ServiceAccount, User
from lepton.auth.v1.project_pb2 import Project
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    LeptonError,
    NotFound,
    OutOfRange,
    PermissionDenied,
    Unauthenticated,
)
from lepton.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.names import not_found
from lepton.profile import Profile, write
from lepton.scheduler.v1 import (
    planning_service_pb2,
    planning_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
)
from lepton.scheduler.v1.node_pb2 import Node
from lepton.scheduler.v1.pool_pb2 import Pool
from lepton.scheduler.v1.queue_pb2 import FloatingResource, Queue
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    trainer_service_pb2,
    trainer_service_pb2_grpc,
)
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from services.scheduler.planning import conversion
from services.scheduler.planning.allocation import allocate
from services.scheduler.planning.scaling import scale
from services.scheduler.planning.spread import spread
from tests.harness.pki import Authority
from tests.harness.proxy import Proxy

PASSWORD = "correct horse battery"
CHUNK = 1 << 16
_PUBLIC = {"SignIn", "RefreshSession", "GetJwks"}


@dataclass
class Log:
    """The one revision that all tables share, and a bell that rings at every change."""

    revision: int = 1
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def ring(self) -> None:
        self.revision += 1
        self.bell.set()
        self.bell = asyncio.Event()


class Table:
    """The resources of one kind, with their history."""

    def __init__(self, log: Log, kind: Any) -> None:
        self.log, self.kind = log, kind
        self.rows: dict[str, Any] = {}
        self.history: list[tuple[int, str, Any]] = []
        self.compacted = 0

    def put(self, resource: Any) -> Any:
        resource.etag = f'"{self.log.revision + 1}"'
        self.rows[resource.name] = self._copy(resource)
        self.history.append((self.log.revision + 1, resource.name, self._copy(resource)))
        self.log.ring()
        return self._copy(resource)

    def change(self, name: str, **fields: Any) -> Any:
        resource = self.get(name)
        for key, value in fields.items():
            if isinstance(value, dict):
                getattr(resource, key).update(value)
            elif isinstance(value, list):
                del getattr(resource, key)[:]
                getattr(resource, key).extend(value)
            elif hasattr(value, "CopyFrom"):
                getattr(resource, key).CopyFrom(value)
            else:
                setattr(resource, key, value)
        return self.put(resource)

    def get(self, name: str) -> Any:
        if name not in self.rows:
            raise not_found(name)
        return self._copy(self.rows[name])

    def add(self, resource: Any) -> Any:
        if resource.name in self.rows:
            kind = self.kind.__name__.upper()
            raise AlreadyExists(f"{kind}_ALREADY_EXISTS", **{kind.lower(): resource.name})
        if "uid" in resource.DESCRIPTOR.fields_by_name:
            resource.uid = uuid.uuid4().hex
        return self.put(resource)

    def remove(self, name: str) -> Any:
        resource = self.get(name)
        del self.rows[name]
        self.history.append((self.log.revision + 1, name, None))
        self.log.ring()
        return resource

    def compact(self) -> None:
        """Forget the history so far."""
        self.compacted = self.log.revision
        self.history.clear()

    def page(self, prefix: str, request: Any, items: str) -> dict[str, Any]:
        found = sorted(name for name in self.rows if name.startswith(prefix) and name > request.page_token)
        size = request.page_size or 2
        more = found[size - 1] if len(found) > size else ""
        return {items: [self.rows[name] for name in found[:size]], "next_page_token": more}

    async def watch(self, prefix: str, revision: int, only: str = "") -> AsyncIterator[tuple[int, int, Any]]:
        """(event, revision, resource) as the services send them."""

        def chosen(name: str) -> bool:
            return name.startswith(prefix) and only in ("", name)

        position = revision
        if revision == 0:
            position = self.log.revision
            for at, resource in [(self._changed(name), row) for name, row in self.rows.items() if chosen(name)]:
                yield 1, at, self._copy(resource)
            yield 3, position, None
        while True:
            if position < self.compacted:
                raise OutOfRange("REVISION_COMPACTED", revision=str(position))
            bell = self.log.bell
            for at, name, resource in list(self.history):
                if at > position and chosen(name):
                    yield (1, at, self._copy(resource)) if resource else (2, at, self.kind(name=name))
            position = self.log.revision
            yield 3, position, None
            await bell.wait()

    def _changed(self, name: str) -> int:
        return max((at for at, each, _ in self.history if each == name), default=1)

    @staticmethod
    def _copy(resource: Any) -> Any:
        copy = type(resource)()
        copy.CopyFrom(resource)
        return copy


class Faults(grpc.aio.ServerInterceptor):
    """Checks tokens, records calls, injects failures by position, and sends lepton.errors."""

    def __init__(self, world: "SmallLepton", service: str) -> None:
        self.world, self.service = world, service

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        method = details.method.rpartition("/")[2]
        metadata = dict(details.invocation_metadata)
        world, service = self.world, self.service

        async def enter(request: Any) -> Callable[[], None]:
            world.calls.append((method, request))
            world.headers.append((method, metadata))
            before, after = world.planned(method)
            if before is not None:
                raise before
            if method not in _PUBLIC:
                world.check(metadata.get("authorization", ""), service)

            def leave() -> None:
                if after is not None:
                    raise after

            return leave

        async def unary(request: Any, context: Any) -> Any:
            try:
                leave = await enter(request)
                answer = await (handler.unary_unary or handler.stream_unary)(request, context)
                leave()
            except LeptonError as error:
                await context.abort_with_status(rpc_status.to_status(error.to_status(f"{service}.lepton")))
            return answer

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                leave = await enter(request)
                async for answer in handler.unary_stream(request, context):
                    yield answer
                    world.sent[method] += 1
                    leave()
            except LeptonError as error:
                await context.abort_with_status(rpc_status.to_status(error.to_status(f"{service}.lepton")))

        coding = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(stream, **coding)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(unary, **coding)
        return grpc.unary_unary_rpc_method_handler(unary, **coding)


class SmallLepton:
    """The state of all services, and the means to disturb them. `async with SmallLepton.serving(folder)`."""

    def __init__(self) -> None:
        self.log = Log()
        self.tables = {
            kind.__name__: Table(self.log, kind)
            for kind in (
                Project, User, ServiceAccount, ApiKey, RoleBinding, Pool, Node, Workload, Job, Checkpoint,
                Model, ModelVersion, Deployment, Queue, FloatingResource,
            )
        }  # fmt: skip
        self.explanations: dict[str, planning_service_pb2.ExplainWorkloadResponse] = {}
        self.what_if = planning_service_pb2.WhatIfResponse()
        self.utilization: dict[str, planning_service_pb2.GetUtilizationResponse] = {}
        self.artifacts: dict[str, bytes] = {}
        self.lines: dict[str, list[trainer_service_pb2.LogLine]] = defaultdict(list)
        self.points: dict[str, list[trainer_service_pb2.MetricPoint]] = defaultdict(list)
        self.passwords = {"users/admin": PASSWORD, "users/alice": PASSWORD}
        self.token_lives_s = 300.0
        self.tokens: dict[str, tuple[str, float]] = {}
        self.refresh_tokens: dict[str, str] = {}
        self.used_refresh_tokens: set[str] = set()
        self.answers_by_request_id: dict[str, Any] = {}
        self.calls: list[tuple[str, Any]] = []
        self.sent: dict[str, int] = defaultdict(int)  # messages of streams
        self.headers: list[tuple[str, dict[str, Any]]] = []
        self._faults: dict[str, list[tuple[LeptonError | None, LeptonError | None]]] = defaultdict(list)
        self._numbers = itertools.count(1)
        self.authority = Authority()
        self._servers: dict[str, grpc.aio.Server] = {}
        self._ports: dict[str, int] = {}
        self.proxies: dict[str, Proxy] = {}
        self.profile: Profile

    def table(self, kind: Any) -> Table:
        return self.tables[kind.__name__]

    def count(self, method: str) -> int:
        return sum(1 for each, _ in self.calls if each == method)

    def requests(self, method: str) -> list[Any]:
        return [request for each, request in self.calls if each == method]

    def fail(self, method: str, error: LeptonError, *, after: bool = False, times: int = 1) -> None:
        """Answer the next calls of a method with this error; `after` it was carried out (for a stream: one message)."""
        self._faults[method] += [(None, error) if after else (error, None)] * times

    def planned(self, method: str) -> tuple[LeptonError | None, LeptonError | None]:
        return self._faults[method].pop(0) if self._faults[method] else (None, None)

    # Sessions.

    def sign_in(self, principal: str, *, refreshable: bool) -> session_service_pb2.Session:
        access, expires = f"access-{next(self._numbers)}", time.time() + self.token_lives_s
        self.tokens[access] = (principal, expires)
        session = session_service_pb2.Session(principal=principal, access_token=access)
        session.access_expire_time.FromNanoseconds(int(expires * 1e9))
        if refreshable:
            session.refresh_token = f"refresh-{next(self._numbers)}"
            session.refresh_expire_time.FromNanoseconds(int((time.time() + 3600) * 1e9))
            self.refresh_tokens[session.refresh_token] = principal
        return session

    def check(self, authorization: str, service: str) -> str:
        principal, expires = self.tokens.get(authorization.removeprefix("Bearer "), ("", 0.0))
        if not principal:
            raise Unauthenticated("TOKEN_MISSING" if authorization in ("", "Bearer ") else "TOKEN_REVOKED")
        if expires < time.time():
            raise Unauthenticated("TOKEN_EXPIRED")
        if principal == "users/alice" and self._is_forbidden(service):
            raise PermissionDenied("PERMISSION_DENIED", permission="users.create", resource="*")
        return principal

    def _is_forbidden(self, service: str) -> bool:
        return service == "auth" and bool(self.calls) and self.calls[-1][0] == "CreateUser"

    def once(self, request: Any, make: Callable[[], Any]) -> Any:
        if request.request_id and request.request_id in self.answers_by_request_id:
            return self.answers_by_request_id[request.request_id]
        answer = make()
        if request.request_id:
            self.answers_by_request_id[request.request_id] = answer
        return answer

    # Servers.

    async def start(self, service: str) -> None:
        server = grpc.aio.server(interceptors=[Faults(self, service)], options=[("grpc.so_reuseport", 1)])
        for add, servicer in SERVICERS[service](self):
            add(servicer, server)
        credentials = self.authority.issue(f"service/{service}")
        tls = grpc.ssl_server_credentials([(credentials.key_pem, credentials.chain_pem)])
        self._ports[service] = server.add_secure_port(f"127.0.0.1:{self._ports.get(service, 0)}", tls)
        await server.start()
        self._servers[service] = server

    async def kill(self, service: str) -> None:
        """As kill -9 looks to clients: connections are reset, new ones too, and nothing in flight is answered."""
        self.proxies[service].cut()
        await self._servers.pop(service).stop(None)

    async def restart(self, service: str) -> None:
        """Start it again at its old address."""
        await self.start(service)
        self.proxies[service].heal()

    @classmethod
    @asynccontextmanager
    async def serving(cls, folder: Path) -> AsyncIterator["SmallLepton"]:
        """All services, and a profile in `folder` that leads to them."""
        world = cls()
        async with AsyncExitStack() as stack:
            for service in SERVICERS:
                await world.start(service)
                proxy = Proxy(f"127.0.0.1:{world._ports[service]}")
                world.proxies[service] = await stack.enter_async_context(proxy)
            (folder / "ca.pem").write_bytes(world.authority.bundle_pem)
            world.profile = Profile(
                **{service: world.proxies[service].endpoint for service in SERVICERS},
                trust_bundle=folder / "ca.pem",
                project="acme",
                folder=folder,
            )
            write(folder / "profile.toml", world.profile)
            try:
                yield world
            finally:
                for server in world._servers.values():
                    await server.stop(None)


class _Servicer:
    def __init__(self, world: SmallLepton) -> None:
        self.world = world


class Sessions(_Servicer, session_service_pb2_grpc.SessionServiceServicer):
    async def SignIn(self, request: Any, context: Any) -> Any:
        if request.WhichOneof("credential") == "password":
            user = request.password.user
            if self.world.passwords.get(user) != request.password.password:
                raise Unauthenticated("SIGN_IN_FAILED")
            return self.world.sign_in(user, refreshable=True)
        if request.api_key != "lpk_good":
            raise Unauthenticated("SIGN_IN_FAILED")
        return self.world.sign_in("projects/acme/serviceAccounts/robot", refreshable=False)

    async def RefreshSession(self, request: Any, context: Any) -> Any:
        principal = self.world.refresh_tokens.pop(request.refresh_token, "")
        if not principal:
            raise Unauthenticated("REFRESH_TOKEN_REFUSED")
        return self.world.sign_in(principal, refreshable=True)

    async def SignOut(self, request: Any, context: Any) -> Any:
        self.world.tokens.clear()
        return session_service_pb2.SignOutResponse()

    async def GetCaller(self, request: Any, context: Any) -> Any:
        metadata = dict(context.invocation_metadata())
        caller = session_service_pb2.Caller(principal=self.world.check(metadata["authorization"], "auth"))
        caller.grants.add(role="roles/admin", scope="*")
        return caller


class Directory(_Servicer, directory_service_pb2_grpc.DirectoryServiceServicer):
    async def CreateProject(self, request: Any, context: Any) -> Any:
        request.project.name = f"projects/{request.project_id}"
        return self.world.once(request, lambda: self.world.table(Project).add(request.project))

    async def GetProject(self, request: Any, context: Any) -> Any:
        return self.world.table(Project).get(request.name)

    async def ListProjects(self, request: Any, context: Any) -> Any:
        page = self.world.table(Project).page("projects/", request, "projects")
        return directory_service_pb2.ListProjectsResponse(**page)

    async def DeleteProject(self, request: Any, context: Any) -> Any:
        self.world.table(Project).remove(request.name)
        return Empty()

    async def CreateUser(self, request: Any, context: Any) -> Any:
        request.user.name = f"users/{request.user_id}"
        self.world.passwords[request.user.name] = request.password
        return self.world.once(request, lambda: self.world.table(User).add(request.user))

    async def ListUsers(self, request: Any, context: Any) -> Any:
        return directory_service_pb2.ListUsersResponse(**self.world.table(User).page("users/", request, "users"))

    async def CreateServiceAccount(self, request: Any, context: Any) -> Any:
        request.service_account.name = f"{request.parent}/serviceAccounts/{request.service_account_id}"
        return self.world.once(request, lambda: self.world.table(ServiceAccount).add(request.service_account))

    async def CreateApiKey(self, request: Any, context: Any) -> Any:
        return ApiKey(name=f"{request.parent}/apiKeys/{request.api_key_id}", secret="lpk_good", prefix="lpk_g")


class Access(_Servicer, access_service_pb2_grpc.AccessServiceServicer):
    async def CreateRoleBinding(self, request: Any, context: Any) -> Any:
        request.role_binding.name = f"{request.parent}/roleBindings/{request.role_binding_id}".lstrip("/")
        return self.world.once(request, lambda: self.world.table(RoleBinding).add(request.role_binding))

    async def ListRoleBindings(self, request: Any, context: Any) -> Any:
        page = self.world.table(RoleBinding).page(request.parent, request, "role_bindings")
        return access_service_pb2.ListRoleBindingsResponse(**page)

    async def CheckPermissions(self, request: Any, context: Any) -> Any:
        return access_service_pb2.CheckPermissionsResponse(permissions=request.permissions[:1])


class Identity(_Servicer, identity_service_pb2_grpc.IdentityServiceServicer):
    async def CreateJoinToken(self, request: Any, context: Any) -> Any:
        return identity_service_pb2.JoinToken(token="lpj_once", spiffe_path=request.spiffe_path)


class Planning(_Servicer, planning_service_pb2_grpc.PlanningServiceServicer):
    async def ExplainWorkload(self, request: Any, context: Any) -> Any:
        if request.name not in self.world.explanations:
            raise not_found(request.name)
        return self.world.explanations[request.name]

    async def WhatIf(self, request: Any, context: Any) -> Any:
        return self.world.what_if

    async def PlanAllocation(self, request: Any, context: Any) -> Any:
        demands, sources = conversion.demands_of(request), conversion.sources_of(request)
        return conversion.allocation_to_proto(allocate(demands, sources))

    async def PlanScaling(self, request: Any, context: Any) -> Any:
        return conversion.scaling_to_proto(scale(conversion.elastic_of(request)))

    async def PlanBalancing(self, request: Any, context: Any) -> Any:
        return conversion.spread_to_proto(spread(conversion.stream_of(request)))

    async def GetUtilization(self, request: Any, context: Any) -> Any:
        if request.name not in self.world.utilization:
            raise not_found(request.name)
        return self.world.utilization[request.name]


class Queues(_Servicer, queue_service_pb2_grpc.QueueServiceServicer):
    async def CreateQueue(self, request: Any, context: Any) -> Any:
        request.queue.name = f"queues/{request.queue_id}"
        return self.world.once(request, lambda: self.world.table(Queue).add(request.queue))

    async def GetQueue(self, request: Any, context: Any) -> Any:
        return self.world.table(Queue).get(request.name)

    async def ListQueues(self, request: Any, context: Any) -> Any:
        return queue_service_pb2.ListQueuesResponse(**self.world.table(Queue).page("queues/", request, "queues"))

    async def WatchQueues(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for event, revision, queue in self.world.table(Queue).watch("queues/", request.revision):
            yield queue_service_pb2.WatchQueuesResponse(event=event, revision=revision, queue=queue)

    async def UpdateQueue(self, request: Any, context: Any) -> Any:
        return _updated(self.world.table(Queue), request.queue, request.update_mask.paths)

    async def DeleteQueue(self, request: Any, context: Any) -> Any:
        self.world.table(Queue).remove(request.name)
        return Empty()

    async def CreateFloatingResource(self, request: Any, context: Any) -> Any:
        request.floating_resource.name = f"floatingResources/{request.floating_resource_id}"
        return self.world.once(request, lambda: self.world.table(FloatingResource).add(request.floating_resource))

    async def GetFloatingResource(self, request: Any, context: Any) -> Any:
        return self.world.table(FloatingResource).get(request.name)

    async def ListFloatingResources(self, request: Any, context: Any) -> Any:
        page = self.world.table(FloatingResource).page("floatingResources/", request, "floating_resources")
        return queue_service_pb2.ListFloatingResourcesResponse(**page)

    async def UpdateFloatingResource(self, request: Any, context: Any) -> Any:
        return _updated(self.world.table(FloatingResource), request.floating_resource, request.update_mask.paths)

    async def DeleteFloatingResource(self, request: Any, context: Any) -> Any:
        self.world.table(FloatingResource).remove(request.name)
        return Empty()


class Scheduler(_Servicer, scheduler_service_pb2_grpc.SchedulerServiceServicer):
    async def CreatePool(self, request: Any, context: Any) -> Any:
        request.pool.name = f"pools/{request.pool_id}"
        return self.world.once(request, lambda: self.world.table(Pool).add(request.pool))

    async def GetPool(self, request: Any, context: Any) -> Any:
        return self.world.table(Pool).get(request.name)

    async def ListPools(self, request: Any, context: Any) -> Any:
        return scheduler_service_pb2.ListPoolsResponse(**self.world.table(Pool).page("pools/", request, "pools"))

    async def UpdatePool(self, request: Any, context: Any) -> Any:
        return _updated(self.world.table(Pool), request.pool, request.update_mask.paths)

    async def GetNode(self, request: Any, context: Any) -> Any:
        return self.world.table(Node).get(request.name)

    async def UpdateNode(self, request: Any, context: Any) -> Any:
        return _updated(self.world.table(Node), request.node, request.update_mask.paths)

    async def ListNodes(self, request: Any, context: Any) -> Any:
        page = self.world.table(Node).page(request.parent.removesuffix("-"), request, "nodes")
        return scheduler_service_pb2.ListNodesResponse(**page)

    async def WatchNodes(self, request: Any, context: Any) -> AsyncIterator[Any]:
        prefix = request.parent.removesuffix("-")
        async for event, revision, node in self.world.table(Node).watch(prefix, request.revision):
            yield scheduler_service_pb2.WatchNodesResponse(event=event, revision=revision, node=node)

    async def CreateWorkload(self, request: Any, context: Any) -> Any:
        request.workload.name = f"{request.parent}/workloads/{request.workload_id}"
        return self.world.once(request, lambda: self.world.table(Workload).add(request.workload))

    async def GetWorkload(self, request: Any, context: Any) -> Any:
        return self.world.table(Workload).get(request.name)

    async def UpdateWorkload(self, request: Any, context: Any) -> Any:
        return _updated(self.world.table(Workload), request.workload, request.update_mask.paths)

    async def ListWorkloads(self, request: Any, context: Any) -> Any:
        page = self.world.table(Workload).page(request.parent.removesuffix("-"), request, "workloads")
        return scheduler_service_pb2.ListWorkloadsResponse(**page)

    async def WatchWorkloads(self, request: Any, context: Any) -> AsyncIterator[Any]:
        prefix = request.parent.removesuffix("-")
        async for event, revision, workload in self.world.table(Workload).watch(prefix, request.revision):
            yield scheduler_service_pb2.WatchWorkloadsResponse(event=event, revision=revision, workload=workload)


class Trainer(_Servicer, trainer_service_pb2_grpc.TrainerServiceServicer):
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


class Artifacts(_Servicer, artifact_service_pb2_grpc.ArtifactServiceServicer):
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


class Inference(_Servicer, inference_service_pb2_grpc.InferenceServiceServicer):
    async def CreateModel(self, request: Any, context: Any) -> Any:
        request.model.name = f"{request.parent}/models/{request.model_id}"
        return self.world.once(request, lambda: self.world.table(Model).add(request.model))

    async def GetModel(self, request: Any, context: Any) -> Any:
        return self.world.table(Model).get(request.name)

    async def ListModels(self, request: Any, context: Any) -> Any:
        page = self.world.table(Model).page(f"{request.parent}/models/", request, "models")
        return inference_service_pb2.ListModelsResponse(**page)

    async def SetModelAlias(self, request: Any, context: Any) -> Any:
        model = self.world.table(Model).get(request.name)
        if request.etag and request.etag != model.etag:
            raise Aborted("ETAG_MISMATCH", name=request.name)
        model.aliases[request.alias] = request.version
        return self.world.table(Model).put(model)

    async def CreateModelVersion(self, request: Any, context: Any) -> Any:
        def make() -> Any:
            model = self.world.table(Model).get(request.parent)
            number = model.latest_version + 1
            self.world.table(Model).change(request.parent, latest_version=number)
            request.model_version.name = f"{request.parent}/versions/{number}"
            return self.world.table(ModelVersion).add(request.model_version)

        return self.world.once(request, make)

    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        model_name, _, number = request.name.rpartition("/versions/")
        model = self.world.table(Model).get(model_name)
        number = model.latest_version if number == "latest" else model.aliases.get(number, number)
        return self.world.table(ModelVersion).get(f"{model_name}/versions/{number}")

    async def ListModelVersions(self, request: Any, context: Any) -> Any:
        page = self.world.table(ModelVersion).page(f"{request.parent}/versions/", request, "model_versions")
        return inference_service_pb2.ListModelVersionsResponse(**page)

    async def CreateDeployment(self, request: Any, context: Any) -> Any:
        request.deployment.name = f"{request.parent}/deployments/{request.deployment_id}"
        request.deployment.state = Deployment.STARTING
        project = request.parent.removeprefix("projects/")
        request.deployment.model_name = f"{project}.{request.deployment_id}"
        return self.world.once(request, lambda: self.world.table(Deployment).add(request.deployment))

    async def GetDeployment(self, request: Any, context: Any) -> Any:
        return self.world.table(Deployment).get(request.name)

    async def ListDeployments(self, request: Any, context: Any) -> Any:
        page = self.world.table(Deployment).page(f"{request.parent}/deployments/", request, "deployments")
        return inference_service_pb2.ListDeploymentsResponse(**page)

    async def WatchDeployments(self, request: Any, context: Any) -> AsyncIterator[Any]:
        rows = self.world.table(Deployment).watch(f"{request.parent}/deployments/", request.revision, request.name)
        async for event, revision, each in rows:
            yield inference_service_pb2.WatchDeploymentsResponse(event=event, revision=revision, deployment=each)

    async def UpdateDeployment(self, request: Any, context: Any) -> Any:
        deployment = request.deployment
        if not deployment.model_version:
            raise InvalidArgument("INVALID_FIELD", fields={"deployment.model_version": "is required"})
        changes = {path: getattr(deployment, path) for path in request.update_mask.paths}
        return self.world.table(Deployment).change(deployment.name, **changes)

    async def DeleteDeployment(self, request: Any, context: Any) -> Any:
        return self.world.table(Deployment).change(request.name, state=Deployment.DELETING)


class Gateway(_Servicer, service_pb2_grpc.GRPCInferenceServiceServicer):
    """A model that sums each row; it takes four rows at once."""

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        answer = service_pb2.ModelMetadataResponse(name=request.name)
        answer.inputs.add(name="x", datatype="FP32", shape=[-1, 3])
        answer.outputs.add(name="sum", datatype="FP32", shape=[-1])
        return answer

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        answer = service_pb2.ModelConfigResponse()
        answer.config.max_batch_size = 4
        return answer

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        rows = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(tuple(request.inputs[0].shape))
        assert len(rows) <= 4
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="sum", datatype="FP32", shape=[len(rows)])
        answer.raw_output_contents.append(rows.sum(axis=1).astype("<f4").tobytes())
        return answer


def _updated(table: Table, wanted: Any, paths: Any) -> Any:
    """The resource with the fields of the mask as they are wanted."""
    resource = table.get(wanted.name)
    if wanted.etag not in ("", resource.etag):
        raise Aborted("ETAG_MISMATCH", name=wanted.name)
    for each, _ in wanted.ListFields():
        if each.name not in paths:
            wanted.ClearField(each.name)
    for path in paths:
        resource.ClearField(path)
    resource.MergeFrom(wanted)
    return table.put(resource)


SERVICERS: dict[str, Callable[[SmallLepton], list[tuple[Any, Any]]]] = {
    "auth": lambda world: [
        (session_service_pb2_grpc.add_SessionServiceServicer_to_server, Sessions(world)),
        (directory_service_pb2_grpc.add_DirectoryServiceServicer_to_server, Directory(world)),
        (access_service_pb2_grpc.add_AccessServiceServicer_to_server, Access(world)),
        (identity_service_pb2_grpc.add_IdentityServiceServicer_to_server, Identity(world)),
    ],
    "scheduler": lambda world: [
        (scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server, Scheduler(world)),
        (planning_service_pb2_grpc.add_PlanningServiceServicer_to_server, Planning(world)),
        (queue_service_pb2_grpc.add_QueueServiceServicer_to_server, Queues(world)),
    ],
    "trainer": lambda world: [
        (trainer_service_pb2_grpc.add_TrainerServiceServicer_to_server, Trainer(world)),
        (artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server, Artifacts(world)),
    ],
    "inference": lambda world: [(inference_service_pb2_grpc.add_InferenceServiceServicer_to_server, Inference(world))],
    "gateway": lambda world: [(service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, Gateway(world))],
}
