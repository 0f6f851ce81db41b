"""Every service in this process over a store in memory, compiled with the whole middleware, without a wire."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grpc import aio

from chassis.access import Binding
from chassis.adapter import Registrar
from chassis.artifacts import ArtifactStore
from chassis.clock import SystemClock
from chassis.ledger import Ledger
from chassis.method import Method
from chassis.middleware.rate_limit import RateLimits
from chassis.paging import Pager
from chassis.rates import Rate
from chassis.rpc_metrics import RpcMetrics
from chassis.server import Registration
from chassis.stack import stack
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.inference.v1.batch_prediction_service_pb2_grpc import add_BatchPredictionServiceServicer_to_server
from lepton.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from lepton.inference.v1.optimization_service_pb2_grpc import add_OptimizationServiceServicer_to_server
from lepton.internal.v1.run_report_pb2_grpc import add_RunReportServiceServicer_to_server
from lepton.trainer.v1.artifact_service_pb2_grpc import add_ArtifactServiceServicer_to_server
from lepton.trainer.v1.trainer_service_pb2_grpc import add_TrainerServiceServicer_to_server
from services.inference.batch.predictions import BatchPredictions
from services.inference.batch.servicer import BatchPredictionServicer
from services.inference.optimizations.searches import Searches
from services.inference.optimizations.servicer import OptimizationServicer
from services.inference.servicer import InferenceServicer
from services.inference.store import PAGE_KEY as INFERENCE_PAGE_KEY
from services.trainer import transfer_limits
from services.trainer.artifact_servicer import ArtifactServicer
from services.trainer.reports import RunReportServicer
from services.trainer.runs import Runs
from services.trainer.servicer import TrainerServicer
from services.trainer.store import PAGE_KEY as TRAINER_PAGE_KEY
from services.trainer.transfer_limits import TransferLimits
from services.trainer.uploads import Uploads
from tests.harness.auth import running_auth
from tests.harness.ledger import scripted
from tests.harness.memory_kv import MemoryKV
from tests.harness.mesh import DEFAULT_BINDINGS, serving
from tests.harness.scheduling import replica_of
from tests.inference.conftest import World as InferenceWorld
from tests.trainer.conftest import World as TrainerWorld

SERVICES: Final = ("auth", "scheduler", "trainer", "inference")
UNLIMITED: Final = RateLimits(caller=Rate(per_s=0, burst=0))


SignIn = Callable[[], Awaitable[str]]


@dataclass(slots=True, kw_only=True)
class Service:
    """One service: its methods by path, and tokens of who may do everything and who may do little."""

    name: str
    methods: Mapping[str, Method]
    handlers: Mapping[str, Any]
    root: str
    alice: str
    sign_in: SignIn | None = None
    """Makes another token of who may do everything: what is asked for at random includes signing out."""
    names: tuple[str, ...] = ()

    @property
    def unary(self) -> list[Method]:
        """The methods that take one request, in a fixed order."""
        found = [method for method in self.methods.values() if not method.streams_requests]
        return sorted((each for each in found if not each.is_infrastructure), key=lambda each: each.path)


@asynccontextmanager
async def service(name: str, folder: Path) -> AsyncIterator[Service]:
    """The service of this name, new and with a little in it."""
    make = {"auth": _auth, "scheduler": _scheduler, "trainer": _trainer, "inference": _inference}[name]
    async with MemoryKV() as kv, make(kv, folder) as made:
        yield made


def _compiled(
    name: str, registrations: tuple[Registration, ...], access: Any, root: str, alice: str, names: tuple[str, ...] = ()
) -> Service:
    registrar = Registrar(stack(access, RpcMetrics(), access_log="failures", limits=UNLIMITED), f"{name}.lepton")
    for add, servicer in registrations:
        add(servicer, registrar)
    methods = {method.path: method for method in registrar.methods}
    return Service(name=name, methods=methods, handlers=registrar.handlers, root=root, alice=alice, names=names)


@asynccontextmanager
async def _auth(kv: MemoryKV, folder: Path) -> AsyncIterator[Service]:
    async with running_auth(kv, folder) as auth:
        admin = await auth.admin()
        for project in ("acme", "other"):
            await admin.directory.CreateProject(directory.CreateProjectRequest(project_id=project))
        account = directory.CreateServiceAccountRequest(parent="projects/acme", service_account_id="robot")
        await admin.directory.CreateServiceAccount(account)
        user = directory.CreateUserRequest(user_id="alice", password="a long password")
        await admin.directory.CreateUser(user)
        alice = await auth.sign_in("users/alice", "a long password")

        async def sign_in() -> str:
            return (await auth.sign_in()).access_token

        root = await sign_in()
        made = _compiled("auth", tuple(auth.app._registrations), auth.app.access, root, alice.access_token)
        made.sign_in = sign_in
        yield made


@asynccontextmanager
async def _scheduler(kv: MemoryKV, folder: Path) -> AsyncIterator[Service]:
    async with replica_of(kv) as replica:
        await replica.create_pool()
        signer = replica.mesh.signer
        yield _compiled(
            "scheduler", replica.scheduler.registrations, replica.mesh.access,
            signer.token("users/root"), signer.token("users/alice"),
        )  # fmt: skip


@asynccontextmanager
async def _trainer(kv: MemoryKV, folder: Path) -> AsyncIterator[Service]:
    async with AsyncExitStack() as exits:
        channel = await exits.enter_async_context(aio.insecure_channel("127.0.0.1:1"))
        from services.trainer.journal import Journals

        artifacts = ArtifactStore(f"file://{folder}/artifacts")
        journals = Journals(folder / "journals")
        world = TrainerWorld(kv, await scripted(kv), Ledger(channel), artifacts, journals)
        job = await world.submit("digits")
        limits = transfer_limits.Limits(largest_bytes=1 << 20, project_bytes=1 << 24, transfers=4)
        moved = ArtifactServicer(
            artifacts, Uploads(kv, artifacts, SystemClock()), TransferLimits(artifacts, SystemClock(), limits)
        )
        registrations = (
            (
                add_TrainerServiceServicer_to_server,
                TrainerServicer(kv, artifacts, journals, await Pager.open(kv, TRAINER_PAGE_KEY)),
            ),
            (add_ArtifactServiceServicer_to_server, moved),
            (
                add_RunReportServiceServicer_to_server,
                RunReportServicer(world.jobs, Runs(world.jobs, artifacts), journals),
            ),
        )
        async with _policy() as (access, root, alice):
            yield _compiled("trainer", registrations, access, root, alice, (job.name,))


@asynccontextmanager
async def _inference(kv: MemoryKV, folder: Path) -> AsyncIterator[Service]:
    async with AsyncExitStack() as exits:
        channel = await exits.enter_async_context(aio.insecure_channel("127.0.0.1:1"))
        artifacts = ArtifactStore(f"file://{folder}/artifacts")
        world = InferenceWorld(kv, await scripted(kv), Ledger(channel), artifacts)
        deployment = await world.deployed("digits")
        pager = await Pager.open(kv, INFERENCE_PAGE_KEY)
        registry = world.registry
        registrations = (
            (add_InferenceServiceServicer_to_server, InferenceServicer(kv, registry, world.served, pager)),
            (
                add_OptimizationServiceServicer_to_server,
                OptimizationServicer(kv, Searches(kv, registry, artifacts), pager),
            ),
            (
                add_BatchPredictionServiceServicer_to_server,
                BatchPredictionServicer(kv, BatchPredictions(kv, registry, artifacts), pager),
            ),
        )
        names = (deployment.name, deployment.model_version, deployment.model_version.rpartition("/versions/")[0])
        async with _policy() as (access, root, alice):
            yield _compiled("inference", registrations, access, root, alice, names)


@asynccontextmanager
async def _policy() -> AsyncIterator[tuple[Any, str, str]]:
    """A policy in force, and tokens of an administrator and of a developer."""
    async with serving(name="trainer", bindings=(*DEFAULT_BINDINGS, _NOBODY)) as mesh:
        yield mesh.access, mesh.signer.token("users/root"), mesh.signer.token("users/alice")


_NOBODY: Final = Binding(principal="users/nobody", role="roles/viewer", scope="projects/other")
