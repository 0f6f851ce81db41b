"""Shared servers end to end: real Triton, the real session over mutual TLS, and a scheduler that does as it is told."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from safetensors.numpy import save
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.artifacts import ArtifactStore
from chassis.clock import SystemClock
from chassis.election import Election
from chassis.kv import Put
from lepton.artifacts import ArtifactStore as Files
from lepton.errors import InvalidArgument, NotFound, PermissionDenied
from lepton.internal.v1 import model_server_pb2
from lepton.internal.v1.model_server_pb2_grpc import (
    ModelServerServiceStub,
    add_ModelServerServiceServicer_to_server,
)
from lepton.names import DeploymentName
from lepton.scheduler.v1.program_pb2 import Program, ServedModel, TritonProgram
from lepton.scheduler.v1.resources_pb2 import Resources
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest, WatchWorkloadsResponse
from lepton.scheduler.v1.workload_pb2 import Slice, SliceGroup, Workload
from services.agent.replica_settings import ReplicaSettings
from services.agent.replica_state import ReplicaEvent, ReplicaState
from services.agent.triton_models import fetch
from services.agent.triton_offer import offer
from services.agent.triton_replica import TritonReplica
from services.agent.triton_shared import SharedModels
from services.inference import repository
from services.inference.autoscaling.keys import wake_key
from services.inference.serving import endpoints
from services.inference.shared.board import SharedBoard
from services.inference.shared.ledger import SharedLedger
from services.inference.shared.placement import Limits
from services.inference.shared.placer import SharedPlacer
from services.inference.shared.registry import LEADER, seen_as
from services.inference.shared.sessions import ModelServers
from services.inference.shared.settings import SharedSettings
from services.inference.triton_repository import onnxruntime_python
from services.inference.triton_repository.options import ServingOptions
from services.inference.triton_repository.warmup import Warmup
from tests.harness.ledger import ScriptedLedger, scripted_ledger
from tests.harness.memory_kv import MemoryKV
from tests.harness.mesh import serving
from tests.harness.serving import SIGNATURE, linear_model, samples, triton_tools
from tests.harness.wait import until

pytestmark = pytest.mark.integration
SERVERS = "projects/acme/workloads/shared-models"
MB = 1 << 20
QUICK = ReplicaSettings(check_interval_s=0.2, check_s=2.0, load_s=20, quiet_s=0.3, drain_s=5.0)
ROOM_FOR_ONE = Limits(max_servers=1, min_age_s=0.0, unknown_bytes=200 * MB)
"""For one that was never measured, on a server with 210 MB."""


@dataclass
class Shared:
    """A service with shared servers, and one agent's server at a time."""

    folder: Path
    kv: MemoryKV
    scheduler: ScriptedLedger
    ledger: SharedLedger
    board: SharedBoard
    artifacts: ArtifactStore
    mesh: Any
    settings: ReplicaSettings = QUICK
    events: list[ReplicaEvent] = field(default_factory=list)
    replica: TritonReplica | None = None

    async def create(
        self, name: str, *, wrong: bool = False, program: tuple[str, str] | None = None
    ) -> Workload | None:
        """Asks for a deployment's model; `wrong` expects other answers, `program` replaces a line of what runs it."""
        rendered = onnxruntime_python.render(
            f"acme.{name}", {1: linear_model()}, SIGNATURE, ServingOptions(warmup=False), Warmup()
        )
        if program is not None:
            content = rendered.files["1/model.py"]
            assert isinstance(content, bytes)
            changed = content.replace(program[0].encode(), program[1].encode(), 1)
            rendered = replace(rendered, files={**rendered.files, "1/model.py": changed})
        x, logits = samples(8)
        golden = await self.artifacts.put_bytes("acme", save({"x": x, "logits": logits + 1 if wrong else logits}))
        manifest = await repository.store([rendered], "acme", self.artifacts)
        served = ServedModel(name=f"acme.{name}", repository=manifest, golden=golden)
        return await self.ledger.create(asked(name, served))

    async def served(self, name: str, condition: Any = endpoints) -> Workload:
        """What the model's owner sees, as soon as it is as wished: by default, as soon as it answers."""
        found: list[Workload] = []

        async def look() -> bool:
            model = self.board.models.get(workload_of(name))
            found[:] = [] if model is None else [await self.seen(name)]
            return bool(found and condition(found[0]))

        await until(look, 60)
        return found[0]

    async def seen(self, name: str) -> Workload:
        return seen_as(self.board.models[workload_of(name)])

    async def answer(self, name: str) -> Any:
        """Calls the model where its owner sees it."""
        address = endpoints(await self.seen(name))[0]
        return await infer(address, name)

    async def observe(self, event: ReplicaEvent) -> None:
        self.events.append(event)
        if event.state is ReplicaState.READY:
            piece = Slice(
                index=0, group="server", node="pools/p/nodes/n1", state=Slice.READY, endpoints=event.endpoints
            )
            await self.scheduler.change(SERVERS, slices=[piece], state=Workload.RUNNING)

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[None]:
        """An agent that runs the one slice of the shared servers, as soon as the service has asked for it."""
        await self.scheduler.workload(SERVERS)
        piece = Slice(index=0, group="server", node="pools/p/nodes/n1", state=Slice.STARTING)
        await self.scheduler.change(SERVERS, slices=[piece], state=Workload.ASSIGNED, generation=1)
        tools = triton_tools()
        async with self.mesh.peer("agent/n1") as peers:
            charge = SharedModels(
                connect=ModelServerServiceStub(peers.channel("inference")).ServeModels,
                hello=lambda endpoint: model_server_pb2.ModelServerHello(workload=SERVERS, slice=0, endpoint=endpoint),
                fetch=lambda model, target: fetch(Files(self.artifacts.url), "acme", model, target, offer(tools)),
                directory=self.folder / "triton",
                settings=self.settings,
            )
            self.replica = TritonReplica(
                tools=tools,
                directory=self.folder / "triton",
                observe=self.observe,
                settings=self.settings,
                charge=charge,
            )
            life = asyncio.create_task(self.replica.run())
            try:
                yield
            finally:
                life.cancel()
                await asyncio.gather(life, return_exceptions=True)

    def kill_server(self) -> None:
        assert self.replica is not None
        assert self.replica.pid is not None
        psutil.Process(self.replica.pid).children()[0].send_signal(signal.SIGKILL)


async def infer(address: str, name: str) -> Any:
    x, logits = samples(2, seed=3)
    request = service_pb2.ModelInferRequest(model_name=f"acme.{name}", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    async with grpc.aio.insecure_channel(address) as channel:
        given = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    np.testing.assert_allclose(
        np.frombuffer(given.raw_output_contents[0], np.float32).reshape(logits.shape), logits, rtol=1e-3, atol=1e-3
    )
    return given


def workload_of(name: str) -> str:
    return f"projects/acme/workloads/serve-{name}"


def asked(name: str, model: ServedModel, **group: Any) -> CreateWorkloadRequest:
    program = Program(triton=TritonProgram(models=[model], shared=True))
    resources = Resources(cpu_milli=250, memory_bytes=512 * MB)
    groups = [SliceGroup(name="replica", min_count=1, max_count=1, resources=resources, program=program, **group)]
    owner = f"projects/acme/deployments/{name}"
    workload = Workload(owner=owner, kind=Workload.SERVING, groups=groups)
    return CreateWorkloadRequest(parent="projects/acme", workload_id=f"serve-{name}", workload=workload)


@asynccontextmanager
async def shared_service(folder: Path, limits: Limits | None = None, memory: int = 2048) -> AsyncIterator[Shared]:
    async with AsyncExitStack() as stack:
        kv = await stack.enter_async_context(MemoryKV())
        scheduler, ledger = await stack.enter_async_context(scripted_ledger("inference"))
        clock, board = SystemClock(), SharedBoard(kv, ledger)
        settings = SharedSettings(memory_bytes=memory * MB, limits=limits or Limits(min_age_s=0.0))
        placer = SharedPlacer(kv, Election(kv, LEADER, "i1"), ledger, board, clock, settings)
        servicer = ModelServers(kv, board, clock)
        mesh = await stack.enter_async_context(
            serving((add_ModelServerServiceServicer_to_server, servicer), name="inference")
        )
        tasks = [asyncio.create_task(each) for each in (board.run(), placer.run())]
        try:
            yield Shared(
                folder=folder,
                kv=kv,
                scheduler=scheduler,
                ledger=SharedLedger(ledger, kv),
                board=board,
                artifacts=ArtifactStore(f"file://{folder}/artifacts"),
                mesh=mesh,
            )
            assert not any(task.done() for task in tasks), [task for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_two_deployments_share_a_server_and_go_one_by_one(tmp_path: Path) -> None:
    async with shared_service(tmp_path) as shared:
        await shared.create("one")
        async with shared.agent():
            await shared.create("two")
            first, second = await shared.served("one"), await shared.served("two")
            assert endpoints(first) == endpoints(second), "one server has both"
            await shared.answer("one")
            await shared.answer("two")
            measured = shared.board.models[workload_of("one")].memory_bytes
            assert 20 * MB < measured < 400 * MB
            address = endpoints(first)[0]
            await shared.ledger.cancel(workload_of("one"))
            await until(lambda: is_unknown(address, "one"), 20)
            await shared.answer("two")
            await shared.ledger.cancel(workload_of("two"))
            await shared.scheduler.workload(SERVERS, lambda each: each.state == Workload.CANCELLING)


async def test_the_least_recently_used_makes_room_and_comes_back_when_it_is_called(tmp_path: Path) -> None:
    async with shared_service(tmp_path, ROOM_FOR_ONE, memory=160 + 210) as shared:
        await shared.create("old")
        async with shared.agent():
            address = endpoints(await shared.served("old"))[0]
            await shared.create("new")
            await shared.served("new")
            old = await shared.seen("old")
            assert not endpoints(old)
            assert "made room" in old.message
            await until(lambda: is_unknown(address, "old"), 20)
            # What whoever holds its calls does.
            await shared.kv.txn([], [Put(wake_key(DeploymentName("acme", "old")), b"1")])
            await shared.served("old")
            await shared.answer("old")


async def test_without_a_call_it_stays_unloaded(tmp_path: Path) -> None:
    async with shared_service(tmp_path, ROOM_FOR_ONE, memory=160 + 210) as shared:
        await shared.create("old")
        async with shared.agent():
            await shared.served("old")
            await shared.create("new")
            await shared.served("new")
            await shared.kv.txn([], [Put(wake_key(DeploymentName("acme", "another")), b"1")])
            await shared.create(
                "next"
            )  # there is room again: what was loaded was measured to be smaller than it counted
            await shared.served("next", lambda each: endpoints(each) or "in use" in each.message)
            assert not endpoints(await shared.seen("old"))


async def test_what_a_killed_server_had_its_successor_has(tmp_path: Path) -> None:
    async with shared_service(tmp_path) as shared:
        await shared.create("one")
        async with shared.agent():
            first = endpoints(await shared.served("one"))
            shared.kill_server()
            await shared.served("one", lambda each: len(endpoints(each)) == 1 and endpoints(each) != first)
            await shared.answer("one")


HANGS = ('        config = json.loads(args["model_config"])\n', "        import time; time.sleep(3600)\n")


@pytest.mark.slow
async def test_a_model_that_hangs_while_it_loads_costs_the_others_no_call(tmp_path: Path) -> None:
    async with shared_service(tmp_path) as shared:
        shared.settings = replace(QUICK, load_s=12.0)
        await shared.create("good")
        async with shared.agent():
            await shared.served("good")
            failures: list[str] = []
            calling = asyncio.create_task(call_on(shared, failures))
            await shared.create("hung", program=HANGS)
            hung = await shared.served("hung", lambda each: "DEADLINE_EXCEEDED" in each.message)
            assert not endpoints(hung)
            await until(lambda: len(ready(shared)) >= 2, 60)
            await shared.served("good", lambda each: endpoints(each) == (ready(shared)[-1],))
            await shared.answer("good")
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            assert not failures
            assert all(event.restarts == 0 for event in shared.events), "the server was replaced in good order"


BROKEN = ('        config = json.loads(args["model_config"])\n', '        raise ValueError("it is broken")\n')


async def test_a_model_that_answers_wrong_or_cannot_be_loaded_is_not_served_and_the_others_are(tmp_path: Path) -> None:
    async with shared_service(tmp_path) as shared:
        await shared.create("good")
        async with shared.agent():
            await shared.served("good")
            await shared.create("wrong", wrong=True)
            await shared.create("broken", program=BROKEN)
            for name, problem in (("wrong", "mismatched"), ("broken", "it is broken")):
                bad = await shared.served(name, lambda each, problem=problem: problem in each.message)
                assert not endpoints(bad)
                assert len(shared.board.models[bad.name].failures) == 1
            await shared.answer("good")
            assert len(ready(shared)) == 1, "nobody else's server was replaced for it"


async def test_only_the_agent_of_the_node_may_open_the_session(tmp_path: Path) -> None:
    async with shared_service(tmp_path) as shared:
        await shared.create("one")
        await shared.scheduler.workload(SERVERS)
        piece = Slice(index=0, group="server", node="pools/p/nodes/n1", state=Slice.STARTING)
        await shared.scheduler.change(SERVERS, slices=[piece], state=Workload.ASSIGNED, generation=1)
        hello = model_server_pb2.ModelServerHello(workload=SERVERS, slice=0, endpoint="127.0.0.1:1")

        async def requests() -> AsyncIterator[model_server_pb2.ServeModelsRequest]:
            yield model_server_pb2.ServeModelsRequest(hello=hello)

        async with shared.mesh.peer("agent/n2") as peers:
            with pytest.raises(PermissionDenied):
                async for _ in ModelServerServiceStub(peers.channel("inference")).ServeModels(requests()):
                    pass


async def test_to_its_owner_a_shared_model_is_a_workload_like_any_other(tmp_path: Path) -> None:
    async with shared_service(tmp_path) as shared:
        seen: list[tuple[Any, str]] = []

        def note(event: Any, name: str) -> None:
            seen.append((event, name))

        async def watch() -> None:
            async for change in shared.ledger.watch():
                note(change.event, change.workload.name)

        watching = asyncio.create_task(watch())
        await until(lambda: any(event == WatchWorkloadsResponse.BOOKMARK for event, _ in seen))
        created = await shared.create("one")
        again = await shared.create("one")
        assert created is not None
        assert again is not None
        assert (created.name, again.name) == (workload_of("one"), workload_of("one"))
        await until(lambda: (WatchWorkloadsResponse.CHANGED, workload_of("one")) in seen)
        await shared.ledger.cancel(workload_of("one"))
        await until(lambda: (WatchWorkloadsResponse.DELETED, workload_of("one")) in seen)
        with pytest.raises(NotFound):
            await shared.ledger.cancel(workload_of("one"))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_what_a_shared_server_cannot_give_is_refused(tmp_path: Path) -> None:
    digest = f"sha256:{'a' * 64}"
    async with shared_service(tmp_path) as shared:
        request = asked("one", ServedModel(name="acme.one", repository=digest, golden=digest))
        request.workload.pools.append("pools/p")
        with pytest.raises(InvalidArgument) as caught:
            await shared.ledger.create(request)
        assert list(caught.value.fields) == ["deployment.pools"]


def ready(shared: Shared) -> list[str]:
    return [event.endpoints["grpc"] for event in shared.events if event.state is ReplicaState.READY]


async def call_on(shared: Shared, failures: list[str]) -> None:
    """Calls the good model without a pause, where the gateway would."""
    while True:
        addresses = endpoints(await shared.seen("good"))
        if not addresses:
            failures.append("it has no server")
            await asyncio.sleep(0.05)
            continue
        try:
            await infer(addresses[-1], "good")
        except grpc.aio.AioRpcError as error:
            failures.append(str(error.details()))


async def is_unknown(address: str, name: str) -> bool:
    try:
        await infer(address, name)
    except grpc.aio.AioRpcError as error:
        return error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)
    return False
