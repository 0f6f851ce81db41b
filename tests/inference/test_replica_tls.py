"""The way from the gateway to a model server: mutual TLS under the node's name, with real Envoy and real Triton."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import grpc
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.credentials import replica_host
from chassis.identity import Identity
from chassis.replica_channels import ReplicaChannel, open_channel
from services.agent.replica_settings import ReplicaSettings
from services.agent.replica_state import ReplicaState
from services.auth.ca import Use
from services.inference.envoy import Endpoint, Route, Routes, Target, render, write
from tests.harness import gateway_caller
from tests.harness.clock import ManualClock
from tests.harness.gateway_caller import Caller
from tests.harness.mesh_ca import MeshCa
from tests.harness.serving import (
    Replica,
    RunningGateway,
    gateway,
    identity_files,
    replica,
    samples,
    served_model,
)
from tests.harness.wait import until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
MODEL = "demo.digits"
NODE = "n1"


@dataclass
class Stack:
    """One replica with a certificate, behind a gateway with one."""

    ca: MeshCa
    clock: ManualClock
    gateway: Identity
    agent: Identity
    front: RunningGateway
    replica: Replica

    @property
    def endpoint(self) -> Endpoint:
        return replace(self.replica.endpoint, name=replica_host(NODE))

    @property
    def address(self) -> str:
        return f"{self.replica.endpoint.host}:{self.replica.endpoint.port}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("tls")
    clock = ManualClock(datetime.now(UTC))
    ca = MeshCa(clock)
    agent, front = ca.member(f"agent/{NODE}"), ca.member("service/gateway")
    certificate = ca.serving(agent, NODE, folder / "serving")
    settings = ReplicaSettings(check_interval_s=0.2, certificate_interval_s=0.1, quiet_s=0.5)
    async with AsyncExitStack() as exits:
        envoy = await exits.enter_async_context(gateway(folder / "envoy", identity=front))
        served = await exits.enter_async_context(
            replica(folder / "replica", [served_model(MODEL)], settings, certificate)
        )
        await served.ready()
        yield Stack(ca=ca, clock=clock, gateway=front, agent=agent, front=envoy, replica=served)


def table(*endpoints: Endpoint) -> Routes:
    return Routes(routes=(Route(model=MODEL, targets=(Target(revision=1, endpoints=endpoints),)),))


async def is_live(channel: grpc.aio.Channel) -> str:
    """OK, or the code with which a model server's own liveness is refused."""
    async with channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            await stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def test_a_call_goes_through_and_its_answer_is_right(stack: Stack) -> None:
    await stack.front.route(table(stack.endpoint))
    async with gateway_caller.channel(stack.front) as channel:
        answer = await Caller.of(channel, stack.front.authority.token("demo")).infer(MODEL, rows=3)
    x, logits = samples(3)
    found = np.frombuffer(answer.message.raw_output_contents[0], np.float32).reshape(len(x), 10)
    np.testing.assert_allclose(found, logits, atol=1e-4)
    assert await stack.front.admin.counter(f"cluster.{MODEL}@r1.ssl.handshake") > 0


async def test_only_members_of_the_mesh_reach_a_model_server(stack: Stack) -> None:
    foreign, name = MeshCa(), replica_host(NODE)
    stranger = foreign.member("service/gateway")
    stranger.credentials = replace(stranger.credentials, bundle_pem=stack.ca.bundle_pem)
    expired = Identity(stack.ca.issue("service/gateway", lifetime=timedelta(seconds=-60)))
    of_a_server = Identity(stack.ca.issue(f"replica/{NODE}", use=Use.SERVER))
    nobody = grpc.ssl_channel_credentials(stack.ca.bundle_pem)
    named = [("grpc.ssl_target_name_override", name)]
    assert await is_live(open_channel(stack.address, name, stack.agent)) == "OK"
    refused = {
        "plaintext": open_channel(stack.address, "", None),
        "no certificate": grpc.aio.secure_channel(stack.address, nobody, options=named),
        "a foreign authority": open_channel(stack.address, name, stranger),
        "expired": open_channel(stack.address, name, expired),
        "a model server's own": open_channel(stack.address, name, of_a_server),
        "another node's name": open_channel(stack.address, replica_host("n2"), stack.agent),
    }
    assert {who: await is_live(channel) for who, channel in refused.items()} == dict.fromkeys(refused, "UNAVAILABLE")


async def test_the_gateway_sends_nothing_to_a_server_that_is_not_the_nodes_own(stack: Stack) -> None:
    await stack.front.route(table(stack.endpoint))
    other = replace(stack.endpoint, name=replica_host("n2"))
    write(stack.front.gateway.directory, render(stack.front.gateway, table(other)))
    failures = f"cluster.{MODEL}@r1.ssl.fail_verify_san"

    async def is_refused() -> bool:
        return await stack.front.admin.counter(failures) > 0

    await until(is_refused, 20)
    async with gateway_caller.channel(stack.front) as channel:
        caller = Caller.of(channel, stack.front.authority.token("demo"))

        async def is_unavailable() -> bool:
            return (await caller.refused(MODEL))[0] == "UNAVAILABLE"

        await until(is_unavailable, 20)
        await stack.front.route(table(stack.endpoint))  # the control: the same server under its own name
        assert await caller.refused(MODEL) == ("OK", "")


async def test_a_server_elsewhere_must_have_a_name(stack: Stack) -> None:
    with pytest.raises(ValueError, match="has no certificate"):
        open_channel("10.0.0.7:8001", "", stack.agent)


async def rotated(stack: Stack, *steps: tuple[Callable[[], None], ...]) -> Counter[str]:
    """How calls end while the root is replaced: after each step all members renew, and routes follow the successors."""
    await stack.front.route(table(stack.endpoint))
    codes: Counter[str] = Counter()
    stopping = asyncio.Event()

    async def call_on() -> None:
        async with gateway_caller.channel(stack.front) as channel:
            caller = Caller.of(channel, stack.front.authority.token("demo"))
            while not stopping.is_set():
                codes[(await caller.refused(MODEL))[0]] += 1

    calling = asyncio.create_task(call_on())
    try:
        for step in steps:
            seen = stack.replica.count(ReplicaState.READY)
            await asyncio.sleep(1.1)  # certificates count whole seconds, and which of two is the newer matters
            for change in step:
                change()
            for identity, path in ((stack.agent, f"agent/{NODE}"), (stack.gateway, "service/gateway")):
                identity.replace(stack.ca.issue(path))
            identity_files(stack.front.gateway.directory, stack.gateway)
            former = stack.endpoint
            await stack.replica.ready(seen + 1)
            await stack.front.route(table(stack.endpoint, former))  # as `Lingering` tells the gateway's files
            await stack.front.route(table(stack.endpoint))
            before = codes.total()
            await until(lambda: codes.total() > before + 20, 20)  # noqa: B023 (awaited at once)
    finally:
        stopping.set()
        await calling
    return codes


async def test_no_call_fails_while_the_root_is_replaced_and_the_server_gets_successors(stack: Stack) -> None:
    """Triton reads its files once, so each step of the rotation brings a successor, as the agent decides by itself."""
    former, channel = stack.address, ReplicaChannel(stack.address, replica_host(NODE), stack.agent)
    first = await channel.now()
    codes = await rotated(
        stack, (stack.ca.publish_root,), (stack.ca.sign_with_newest,), (stack.ca.forget_former_roots,)
    )
    assert set(codes) == {"OK"}, codes
    assert stack.address != former
    assert stack.replica.count(ReplicaState.STARTING) == 1
    assert await channel.now() is not first  # the agent's own way to the server has followed its identity
    await channel.close()


async def test_without_the_overlap_a_server_does_not_know_its_callers(stack: Stack) -> None:
    """The control: a root that signs before the servers trust it."""
    address, name, seen = stack.address, replica_host(NODE), stack.replica.count(ReplicaState.READY)
    stack.ca.publish_root()
    stack.ca.sign_with_newest()
    assert await is_live(open_channel(address, name, stack.ca.member("service/gateway"))) == "UNAVAILABLE"
    await asyncio.sleep(1.1)
    stack.agent.replace(stack.ca.issue(f"agent/{NODE}"))
    await stack.replica.ready(seen + 1)
    assert await is_live(open_channel(stack.address, name, stack.ca.member("service/gateway"))) == "OK"


async def test_a_server_whose_certificate_is_old_gets_a_successor(stack: Stack) -> None:
    seen, former = stack.replica.count(ReplicaState.READY), stack.replica.endpoint
    await stack.clock.advance(3 * 86_400)
    await asyncio.sleep(0.5)
    assert stack.replica.endpoint == former  # the control: it is not old yet
    stack.ca.serving_life = timedelta(days=70)
    await stack.clock.advance(2 * 86_400)
    await stack.replica.ready(seen + 1)
    assert stack.replica.endpoint != former
    assert stack.replica.count(ReplicaState.STARTING) == 1
