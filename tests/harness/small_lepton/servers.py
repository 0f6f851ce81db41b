"""The servers of all services, on real TLS."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from lepton.auth.v1 import (
    access_service_pb2_grpc,
    directory_service_pb2_grpc,
    identity_service_pb2_grpc,
    session_service_pb2_grpc,
)
from lepton.inference.v1 import inference_service_pb2_grpc
from lepton.profile import Profile, write
from lepton.scheduler.v1 import planning_service_pb2_grpc, queue_service_pb2_grpc, scheduler_service_pb2_grpc
from lepton.trainer.v1 import artifact_service_pb2_grpc, trainer_service_pb2_grpc
from tests.harness.pki import Authority
from tests.harness.proxy import Proxy
from tests.harness.small_lepton.auth import Access, Directory, Identity, Sessions
from tests.harness.small_lepton.faults import Faults
from tests.harness.small_lepton.inference import Gateway, Inference
from tests.harness.small_lepton.scheduler import Planning, Queues, Scheduler
from tests.harness.small_lepton.trainer import Artifacts, Trainer
from tests.harness.small_lepton.world import World

SERVICERS: dict[str, Callable[[World], list[tuple[Any, Any]]]] = {
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


class SmallLepton(World):
    """All services on addresses of their own, and the means to kill them. `async with SmallLepton.serving(folder)`."""

    def __init__(self) -> None:
        super().__init__()
        self.authority = Authority()
        self._servers: dict[str, grpc.aio.Server] = {}
        self._ports: dict[str, int] = {}
        self.proxies: dict[str, Proxy] = {}
        self.profile: Profile

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
