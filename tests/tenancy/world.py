"""All four services in this process, over one etcd, with a node whose slices run for as long as they are let."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc.aio

from chassis.app import App
from chassis.clock import SystemClock
from chassis.config import IdentitySettings, Limits, Listen
from chassis.credentials import Credentials
from chassis.etcd import EtcdKV
from lepton import channel
from lepton.auth.v1 import access_service_pb2 as access
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.scheduler.v1 import node_pb2, pool_pb2, queue_pb2, queue_service_pb2, resources_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as scheduler
from lepton.scheduler.v1.queue_service_pb2_grpc import QueueServiceStub
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from services.agent.inventory import Usage
from services.agent.order import SliceOrder
from services.agent.outbox import Outbox
from services.agent.processes import Warden
from services.agent.runner import Ending, SliceControl, Surroundings
from services.agent.session import Session
from services.agent.slices import Slice, Slices
from services.agent.tasks import Tasks
from services.auth.config import Lifetimes
from services.auth.oidc.settings import OidcProvider
from services.inference.__main__ import build as build_inference
from services.inference.config import GatewaySettings, InferenceConfig
from services.scheduler.__main__ import build as build_scheduler
from services.scheduler.config import Leader, SchedulerConfig
from services.trainer.__main__ import build as build_trainer
from services.trainer.config import TrainerConfig
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.wait import until

PASSWORD: Final = "correct horse battery staple"
NODE: Final = "n1"
POOL: Final = "general"
QUEUE: Final = "shared"
LICENCE: Final = "licences"
CPU_MILLI: Final = 64_000
CI: Final = OidcProvider(issuer="https://ci.test", workload_audiences=("lepton",), workload_subjects=("repo:",))
"""Whose tokens service accounts may trust; nothing is fetched from there."""
_UNLIMITED: Final = Limits(rate_per_s=0, drain_s=0.5)


@dataclass
class World:
    """The services by name, and who calls them."""

    auth: RunningAuth
    folder: Path
    stack: AsyncExitStack
    apps: dict[str, App] = field(default_factory=dict)
    _channels: dict[tuple[str, str], grpc.aio.Channel] = field(default_factory=dict)

    @property
    def served(self) -> Mapping[str, str]:
        """Which service serves a method, by the method's path."""
        return {method.path: name for name, app in self.apps.items() if app.server for method in app.server.methods}

    def port(self, service: str, listener: str = "client") -> int:
        server = self.apps[service].server
        assert server is not None
        return server.ports[listener]

    async def connect(self, service: str, token: str = "") -> grpc.aio.Channel:
        """A plain channel to a service's client port: nothing of what comes back is interpreted."""
        if (service, token) not in self._channels:
            credentials = grpc.ssl_channel_credentials(self.auth.bundle_pem)
            if token:
                credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
            # Of its own: channels that share a connection would share its limit of streams.
            options = [("grpc.use_local_subchannel_pool", 1)]
            opened = grpc.aio.secure_channel(f"127.0.0.1:{self.port(service)}", credentials, options=options)
            self._channels[service, token] = await self.stack.enter_async_context(opened)
        return self._channels[service, token]

    async def peer(self, service: str, proof: Credentials) -> grpc.aio.Channel:
        """A channel to a service's mesh port, proved by a certificate."""
        credentials = channel.mutual_credentials(proof.key_pem, proof.chain_pem, proof.bundle_pem)
        opened = channel.connect(
            f"127.0.0.1:{self.port(service, 'mesh')}", with_credentials=credentials, server_name=service
        )
        return await self.stack.enter_async_context(opened)

    async def tenant(self, project: str, user: str) -> str:
        """A new project and its only administrator; an access token of hers."""
        admin = await self.auth.admin()
        await admin.directory.CreateProject(directory.CreateProjectRequest(project_id=project))
        await admin.directory.CreateUser(directory.CreateUserRequest(user_id=user, password=PASSWORD))
        binding = RoleBinding(role="roles/admin", members=[f"users/{user}"])
        await admin.access.CreateRoleBinding(
            access.CreateRoleBindingRequest(
                parent=f"projects/{project}", role_binding_id=f"{project}-admins", role_binding=binding
            )
        )
        # The administrator of the organisation leaves what she has made to its owner.
        await admin.access.DeleteRoleBinding(
            access.DeleteRoleBindingRequest(name=f"projects/{project}/roleBindings/creator")
        )
        revision = self.apps["auth"].access.revision
        await until(lambda: all(app.access.revision >= revision for app in self.apps.values()))
        return await self.sign_in(user)

    async def stranger(self) -> str:
        """An access token of somebody who has no role anywhere."""
        admin = await self.auth.admin()
        await admin.directory.CreateUser(directory.CreateUserRequest(user_id="stranger", password=PASSWORD))
        return await self.sign_in("stranger")

    async def sign_in(self, user: str) -> str:
        """Another access token of a user."""
        return (await self.auth.sign_in(f"users/{user}", PASSWORD)).access_token


class Held:
    """Runs a slice until it is told to stop."""

    async def run(self, order: SliceOrder, control: SliceControl) -> Ending:
        control.running()
        await control.stop.asked()
        return Ending(state=Slice.STOPPED, message=control.stop.reason)


@asynccontextmanager
async def running_world(etcd: list[str], folder: Path) -> AsyncIterator[World]:
    """The whole control plane, with one node; `folder` holds all that it writes outside etcd."""
    async with AsyncExitStack() as stack:
        kv = await stack.enter_async_context(EtcdKV(etcd))
        auth = await stack.enter_async_context(
            running_auth(kv, folder, limits=_UNLIMITED, lifetimes=Lifetimes(access_token_s=3600), oidc={"ci": CI})
        )
        world = World(auth=auth, folder=folder, stack=stack, apps={"auth": auth.app})
        await stack.enter_async_context(_all_services(world, tuple(etcd)))
        await stack.enter_async_context(_node(world))
        yield world


@asynccontextmanager
async def _all_services(world: World, etcd: tuple[str, ...]) -> AsyncIterator[None]:
    artifacts = (world.folder / "artifacts").as_uri()
    gateway = GatewaySettings(
        directory=world.folder / "gateway",
        address="127.0.0.1:1",
        join_token_file=await _join_token(world, "gateway"),
    )
    async with AsyncExitStack() as stack:
        known = await _settings(world, "scheduler", etcd)
        config = SchedulerConfig(leader=Leader(ttl_s=5, renew_deadline_s=4, retry_s=0.2), **known)
        world.apps["scheduler"] = await stack.enter_async_context(_running(config, build_scheduler))
        known = await _settings(world, "trainer", etcd)
        trainer = TrainerConfig(artifacts=artifacts, journals=world.folder / "journals", **known)
        world.apps["trainer"] = await stack.enter_async_context(_running(trainer, build_trainer))
        known = await _settings(world, "inference", etcd)
        inference = InferenceConfig(artifacts=artifacts, gateway=gateway, **known)
        world.apps["inference"] = await stack.enter_async_context(_running(inference, build_inference))
        yield


async def _settings(world: World, service: str, etcd: tuple[str, ...]) -> dict[str, Any]:
    """What every service is told."""
    identity = IdentitySettings(
        state_dir=str(world.folder / service),
        trust_bundle=world.auth.config.identity.trust_bundle,
        auth_address=f"127.0.0.1:{world.port('auth')}",
        join_token_file=await _join_token(world, service),
    )
    peers = {name: f"127.0.0.1:{world.port(name, 'mesh')}" for name in world.apps}
    return {
        "etcd_endpoints": etcd, "identity": identity, "peers": peers, "limits": _UNLIMITED, "listen": Listen(),
    }  # fmt: skip


async def _join_token(world: World, service: str) -> str:
    file = world.folder / f"{service}.token"
    file.write_text(await world.auth.join_token(f"service/{service}"))
    return str(file)


@asynccontextmanager
async def _running(config: Any, build: Callable[[Any, App], Awaitable[None]]) -> AsyncIterator[App]:
    stopping = asyncio.Event()
    async with AsyncExitStack() as resources, asyncio.TaskGroup() as tasks:
        app = App(config, resources, SystemClock())
        await build(config, app)
        serving = tasks.create_task(app.run(stopping), name=config.service)
        try:

            def is_up() -> bool:
                if serving.done():
                    serving.result()
                return app.server is not None and "metrics" in app.server.ports and app.access.ready.is_set()

            await until(is_up)
            yield app
        finally:
            stopping.set()


@asynccontextmanager
async def _node(world: World) -> AsyncIterator[None]:
    """The pool and its one node: the real agent's session, and slices that do nothing."""
    admin = (await world.auth.sign_in()).access_token
    operator: Any = SchedulerServiceStub(await world.connect("scheduler", admin))
    await operator.CreatePool(scheduler.CreatePoolRequest(pool_id=POOL, pool=pool_pb2.Pool()))
    queues: Any = QueueServiceStub(await world.connect("scheduler", admin))
    await queues.CreateQueue(queue_service_pb2.CreateQueueRequest(queue_id=QUEUE, queue=queue_pb2.Queue()))
    floating = queue_pb2.FloatingResource(capacity=1)
    await queues.CreateFloatingResource(
        queue_service_pb2.CreateFloatingResourceRequest(floating_resource_id=LICENCE, floating_resource=floating)
    )
    proof = await world.auth.join(f"agent/{NODE}")
    node = node_pb2.Node(
        name=f"pools/{POOL}/nodes/{NODE}",
        address="127.0.0.1",
        capacity=resources_pb2.Resources(cpu_milli=CPU_MILLI, memory_bytes=1 << 36),
    )
    surroundings = Surroundings(address="127.0.0.1", artifacts="file:///nowhere", otlp_endpoint="", device_uuids={})
    async with Warden({}) as warden:
        tasks = Tasks(surroundings=surroundings, root=world.folder / NODE, inherited={}, warden=warden)
        outbox = Outbox()
        slices = Slices(node=node.name, runners=dict.fromkeys(("torch", "triton", "process"), Held()), outbox=outbox)
        async with tasks, slices:
            session = Session(
                channel=await world.peer("scheduler", proof),
                node=node,
                slices=slices,
                tasks=tasks,
                outbox=outbox,
                usage=lambda: Usage(cpu_milli=0, memory_bytes=0),
                clock=SystemClock(),
                grace_s=1.0,
            )
            living = asyncio.create_task(session.run())
            try:
                yield
            finally:
                living.cancel()
                await asyncio.gather(living, return_exceptions=True)
