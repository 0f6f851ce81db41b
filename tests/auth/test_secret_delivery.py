"""The way of a secret to an agent: real auth asks a real scheduler whether the agent was given the slice."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from chassis.access import PolicyReplica
from chassis.identity import Identity
from chassis.kv import KV, Put
from chassis.rpc_metrics import RpcMetrics
from chassis.server import Listener, Server
from chassis.stack import stack
from lepton.auth.v1 import audit_service_pb2, directory_service_pb2
from lepton.auth.v1 import secret_service_pb2 as pb
from lepton.errors import FailedPrecondition, LeptonError, PermissionDenied
from lepton.internal.v1 import secrets_pb2 as internal
from lepton.internal.v1.ledger_pb2 import Assignment
from lepton.internal.v1.secrets_pb2_grpc import add_SliceSecretsServiceServicer_to_server
from lepton.internal.v1.tasks_pb2 import NodeTasks
from lepton.names import WorkloadName
from lepton.scheduler.v1 import program_pb2, workload_pb2
from services.scheduler import keys
from services.scheduler.slice_secrets import SliceSecrets, SliceSecretsServicer
from tests.harness.auth import RunningAuth, Stubs, running_auth
from tests.harness.memory_kv import MemoryKV
from tests.harness.ports import free_ports

Slice = workload_pb2.Slice
ACME, DB = "projects/acme", "projects/acme/secrets/db"
WORKLOAD = WorkloadName("acme", "train")


@dataclass
class World:
    """Auth, and the scheduler's store."""

    auth: RunningAuth
    admin: Stubs
    ledger: KV

    async def assign(self, *nodes: str, generation: int = 1, secret: str = DB, version: int = 0, **facts: str) -> None:
        """The scheduler gives slices of a workload to nodes."""
        mount = program_pb2.SecretMount(secret=secret, version=version, env="TOKEN")
        torch = program_pb2.TorchProgram(module="m", secrets=[mount])
        assignment = Assignment(
            workload=str(WORKLOAD),
            workload_uid=facts.get("uid", "u1"),
            generation=generation,
            slices=[Slice(index=at, group="worker", node=f"pools/p/nodes/{node}") for at, node in enumerate(nodes)],
            programs={"worker": program_pb2.Program(torch=torch)},
        )
        await self.write(assignment)

    async def write(self, assignment: Assignment) -> None:
        key = keys.assignment(WORKLOAD, assignment.generation)
        await self.ledger.txn([], [Put(key, assignment.SerializeToString())])

    async def resolve(self, node: str, *, generation: int = 1, uid: str = "u1") -> list[tuple[int, bytes]]:
        """The versions and values that the agent of a node gets."""
        agent = await self.auth.peer(await self.auth.join(f"agent/{node}"))
        request = internal.ResolveSecretsRequest(workload=str(WORKLOAD), workload_uid=uid, generation=generation)
        answer = await agent.delivery.ResolveSecrets(request)
        return [(each.version, each.value) for each in answer.secrets]

    async def refused(self, node: str, **facts: int | str) -> str:
        """Why the agent of a node gets nothing."""
        with pytest.raises(LeptonError) as refused:
            await self.resolve(node, **facts)  # type: ignore[arg-type]
        return refused.value.reason


@asynccontextmanager
async def scheduler(auth: RunningAuth, kv: KV, port: int) -> AsyncIterator[None]:
    """The scheduler's servicer, as a member of auth's mesh."""
    identity = Identity(await auth.join("service/scheduler", ("localhost", "127.0.0.1", "scheduler")))
    metrics = RpcMetrics()
    credentials = identity.server_credentials(require_client=True)
    server = Server(
        "scheduler",
        [(add_SliceSecretsServiceServicer_to_server, SliceSecretsServicer(SliceSecrets(kv)))],
        listeners=[Listener(name="mesh", address=f"127.0.0.1:{port}", credentials=credentials)],
        middleware=stack(PolicyReplica(), metrics),
        metrics=metrics,
    )
    await server.start()
    try:
        yield
    finally:
        await server.drain(0)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (port,) = free_ports(1)
    async with AsyncExitStack() as held:
        kv, ledger = await held.enter_async_context(MemoryKV()), await held.enter_async_context(MemoryKV())
        peers = {"scheduler": f"127.0.0.1:{port}"}
        auth = await held.enter_async_context(running_auth(kv, tmp_path, peers=peers))
        await held.enter_async_context(scheduler(auth, ledger, port))
        admin = await auth.admin()
        await admin.directory.CreateProject(directory_service_pb2.CreateProjectRequest(project_id="acme"))
        await admin.secrets.CreateSecret(pb.CreateSecretRequest(parent=ACME, secret_id="db", value=b"first"))
        yield World(auth, admin, ledger)


async def add(world: World, value: bytes) -> None:
    await world.admin.secrets.AddSecretVersion(pb.AddSecretVersionRequest(name=DB, value=value))


async def test_an_agent_gets_the_secrets_of_its_slices(world: World) -> None:
    await world.assign("n1")
    assert await world.resolve("n1") == [(1, b"first")]
    described = await world.admin.secrets.GetSecret(pb.GetSecretRequest(name=DB))
    assert described.HasField("last_use_time")
    assert described.versions[0].HasField("last_use_time")
    records = await world.admin.audit.QueryAudit(audit_service_pb2.QueryAuditRequest(page_size=1000))
    (use,) = [each for each in records.audit_records if each.action == "secrets.use"]
    assert use.resource == f"{DB}/versions/1"
    assert use.actor.endswith("/agent/n1")
    assert use.reason == f"{WORKLOAD} generation 1"


async def test_an_agent_gets_nothing_of_slices_that_it_was_not_given(world: World) -> None:
    await world.assign("n1")
    assert await world.refused("n2") == "SLICE_NOT_ASSIGNED"
    assert await world.refused("n1", generation=2) == "SLICE_NOT_ASSIGNED"
    assert await world.refused("n1", uid="another") == "SLICE_NOT_ASSIGNED"
    assert await world.resolve("n1") == [(1, b"first")]  # the control


async def test_what_was_taken_back_or_has_ended_is_not_given_again(world: World) -> None:
    await world.assign("n1")
    revoked = Assignment.FromString((await world.ledger.get(keys.assignment(WORKLOAD, 1))).value)  # type: ignore[union-attr]
    assert await world.resolve("n1") == [(1, b"first")]  # the control
    ended = Slice(index=0, state=Slice.FAILED)
    await world.ledger.txn([], [Put(keys.status(WORKLOAD, 1, 0), ended.SerializeToString())])
    assert await world.refused("n1") == "SLICE_NOT_ASSIGNED"
    running = Slice(index=0, state=Slice.RUNNING)
    await world.ledger.txn([], [Put(keys.status(WORKLOAD, 1, 0), running.SerializeToString())])
    assert await world.resolve("n1") == [(1, b"first")]
    revoked.revoke_time.GetCurrentTime()
    await world.write(revoked)
    assert await world.refused("n1") == "SLICE_NOT_ASSIGNED"


async def test_tasks_of_an_array_are_slices_too(world: World) -> None:
    process = program_pb2.ProcessProgram(argv=["x"], secrets=[program_pb2.SecretMount(secret=DB, env="TOKEN")])
    array = Assignment(
        workload=str(WORKLOAD),
        workload_uid="u1",
        generation=1,
        programs={"task": program_pb2.Program(process=process)},
        tasks=[NodeTasks(node="pools/p/nodes/n1", runs=[0, 10, 1]), NodeTasks(node="pools/p/nodes/n2")],
    )
    await world.write(array)
    assert await world.resolve("n1") == [(1, b"first")]
    assert await world.refused("n2") == "SLICE_NOT_ASSIGNED"


async def test_only_agents_may_ask_and_only_auth_may_ask_the_scheduler(world: World) -> None:
    await world.assign("n1")
    request = internal.ResolveSecretsRequest(workload=str(WORKLOAD), workload_uid="u1", generation=1)
    with pytest.raises(PermissionDenied):
        await world.admin.delivery.ResolveSecrets(request)
    for path in ("service/trainer", "service/scheduler", "service/agent"):
        peer = await world.auth.peer(await world.auth.join(path))
        with pytest.raises(PermissionDenied):
            await peer.delivery.ResolveSecrets(request)


async def test_all_of_a_generation_get_one_version_and_the_next_gets_the_newest(world: World) -> None:
    await world.assign("n1", "n2")
    assert await world.resolve("n1") == [(1, b"first")]
    await add(world, b"second")
    assert await world.resolve("n2") == [(1, b"first")]  # what runs keeps what it has
    await world.assign("n1", "n2", generation=2)
    assert await world.resolve("n2", generation=2) == [(2, b"second")]
    await world.assign("n1", generation=3, version=1)
    assert await world.resolve("n1", generation=3) == [(1, b"first")]  # pinned by who submitted it


async def test_what_is_disabled_is_given_to_nobody_also_where_it_was_chosen(world: World) -> None:
    await world.assign("n1", "n2")
    assert await world.resolve("n1") == [(1, b"first")]
    await world.admin.secrets.DisableSecret(pb.DisableSecretRequest(name=DB))
    assert await world.refused("n2") == "SECRET_DISABLED"


async def test_a_workload_reaches_no_secret_of_another_project(world: World) -> None:
    """The scheduler refuses it at submission; auth does not rely on that."""
    other = "projects/other/secrets/db"
    await world.admin.directory.CreateProject(directory_service_pb2.CreateProjectRequest(project_id="other"))
    request = pb.CreateSecretRequest(parent="projects/other", secret_id="db", value=b"theirs")
    await world.admin.secrets.CreateSecret(request)
    await world.assign("n1", secret=other)
    assert await world.refused("n1") == "INVALID_FIELD"


async def test_an_auth_without_a_scheduler_says_so(tmp_path: Path) -> None:
    async with MemoryKV() as kv, running_auth(kv, tmp_path) as auth:
        agent = await auth.peer(await auth.join("agent/n1"))
        request = internal.ResolveSecretsRequest(workload=str(WORKLOAD), workload_uid="u1", generation=1)
        with pytest.raises(FailedPrecondition, match="knows no scheduler"):
            await agent.delivery.ResolveSecrets(request)
