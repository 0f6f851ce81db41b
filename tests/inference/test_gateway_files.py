"""The gateway's files: only replicas that have proved themselves, and never less because a service restarts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chassis.access import PolicySnapshot
from chassis.kv import Delete
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.inference.v1.rollout_pb2 import RolloutStatus
from lepton.names import DeploymentName, DeploymentRevisionName
from lepton.scheduler.v1.scheduler_service_pb2 import WatchWorkloadsResponse
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference.envoy import Endpoint, Gateway, TokenRules
from services.inference.envoy.access import call_rules
from services.inference.gateway import GatewayFiles, is_complete, routes
from services.inference.gateway_identity import token_rules
from services.inference.routing import GatewayRouting
from services.inference.serving import serving_name
from services.inference.store import deployment_key, revision_key
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV
from tests.harness.pki import TokenSigner
from tests.harness.wait import until

CHANGED, DELETED, BOOKMARK = 1, 2, 3


def deployment(name: str = "digits", state: Any = Deployment.READY) -> Deployment:
    status = RolloutStatus(stable_revision=1, targets=[RolloutStatus.Target(revision=1, weight=100)])
    return Deployment(
        name=f"projects/acme/deployments/{name}",
        uid="01234567-89",
        model_name=f"acme.{name}",
        state=state,
        replicas=2,
        revision=1,
        rollout=status,
    )


def revision(of: Deployment, number: int = 1) -> DeploymentRevision:
    return DeploymentRevision(name=f"{of.name}/revisions/{number}")


def revisions(*deployments: Deployment) -> dict[str, DeploymentRevision]:
    return {each.name: each for each in map(revision, deployments)}


def workload(of: Deployment, *ready: int, kind: Any = Workload.SERVING) -> Workload:
    slices = [
        Slice(
            index=at, state=Slice.READY if at in ready else Slice.RUNNING, endpoints={"grpc": f"127.0.0.1:{9000 + at}"}
        )
        for at in range(3)
    ]
    return Workload(
        name=str(serving_name(of, revision(of))), owner=of.name, kind=kind, state=Workload.RUNNING, slices=slices
    )


class Feed:
    """Workloads that the test tells of."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[WatchWorkloadsResponse] = asyncio.Queue()

    async def watch(self) -> AsyncIterator[WatchWorkloadsResponse]:
        while True:
            yield await self.messages.get()

    def tell(self, event: Any, told: Workload | None = None) -> None:
        self.messages.put_nowait(WatchWorkloadsResponse(event=event, workload=told))


class Gate:
    """The folder of a gateway, and services that write it."""

    def __init__(self, folder: Path, kv: MemoryKV) -> None:
        self.folder, self.kv, self.feed = folder, kv, Feed()
        signer = TokenSigner()
        self.snapshot = PolicySnapshot(
            revision=1,
            roles={},
            bindings=(),
            jwks=signer.jwks,
            issuer=signer.issuer,
            audience=signer.audience,
        )

    def tokens(self, **changes: Any) -> TokenRules:
        """What the policy says of tokens and calls, now or with these changes."""
        snapshot = replace(self.snapshot, **changes)
        return token_rules(snapshot, call_rules(snapshot, 0))

    @asynccontextmanager
    async def service(self) -> AsyncIterator[GatewayFiles]:
        """An inference service that has just started."""
        self.feed = Feed()
        gateway = Gateway(
            directory=self.folder,
            tokens=TokenRules(issuer="", audience="", jwks=""),
            certificate=self.folder / "c.pem",
            key=self.folder / "k.pem",
            host="127.0.0.1",
            port=8443,
            admin_port=0,
            collector=None,
            sampling=1.0,
        )
        files = GatewayFiles(self.kv, self.feed, gateway)
        task = asyncio.create_task(files.run())
        try:
            yield files
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def store(self, stored: Deployment) -> None:
        await self.kv.put(deployment_key(DeploymentName.parse(stored.name)), stored.SerializeToString())
        first = revision(stored)
        await self.kv.put(revision_key(DeploymentRevisionName.parse(first.name)), first.SerializeToString())

    def routed(self) -> dict[str, list[int]]:
        """The ports of each model's replicas, as Envoy reads them."""
        found: dict[str, list[int]] = {}
        for path in (self.folder / "eds").glob("acme.*.json"):
            for resource in json.loads(path.read_text())["resources"]:
                ports = [
                    endpoint["endpoint"]["address"]["socket_address"]["port_value"]
                    for locality in resource.get("endpoints", ())
                    for endpoint in locality.get("lb_endpoints", ())
                ]
                found[resource["cluster_name"].partition("@")[0]] = ports
        return found

    def content(self) -> dict[str, bytes]:
        paths = (path for path in self.folder.rglob("*.json") if not path.name.startswith("."))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    async with MemoryKV() as kv:
        yield Gate(tmp_path / "gateway", kv)


def test_only_proven_replicas_of_deployments_that_stay_have_routes() -> None:
    ready, deleting, starting = deployment("a"), deployment("b", Deployment.DELETING), deployment("c")
    served = {each.name: each for each in (ready, deleting, starting)}
    workloads = {each.name: each for each in (workload(ready, 0, 2), workload(deleting, 0))}
    table = routes(served, revisions(ready, deleting, starting), workloads)
    assert [(route.model, [endpoint.port for endpoint in route.targets[0].endpoints]) for route in table.routes] == [
        ("acme.a", [9000, 9002])
    ]


def test_one_replica_without_an_address_does_not_take_the_others_routes() -> None:
    odd = workload(deployment(), 0, 1)
    odd.slices[0].endpoints["grpc"] = "nowhere"
    [route] = routes({"x": deployment()}, revisions(deployment()), {odd.name: odd}).routes
    assert route.targets[0].endpoints == (Endpoint(host="127.0.0.1", port=9001),)


def test_every_replica_has_the_engine_that_its_slice_names() -> None:
    mixed = workload(deployment(), 0, 1, 2)
    mixed.slices[0].facts["engine/acme.digits"] = "aot_inductor/key"
    mixed.slices[1].facts["engine/acme.digits"] = "a\nline"
    mixed.slices[2].facts["engine/acme.other"] = "onnxruntime"
    [route] = routes({"x": deployment()}, revisions(deployment()), {mixed.name: mixed}).routes
    assert [each.engine for each in route.targets[0].endpoints] == ["aot_inductor/key", "", ""]


async def test_nothing_is_written_before_all_is_known(gate: Gate) -> None:
    await gate.store(deployment())
    async with gate.service() as files:
        gate.feed.tell(CHANGED, workload(deployment(), 0))
        files.use_tokens(TokenRules(issuer="", audience="lepton", jwks='{"keys": []}'))
        gate.feed.tell(BOOKMARK)
        await until(gate.feed.messages.empty)
        assert gate.content() == {}
        files.use_tokens(gate.tokens())
        await until(lambda: gate.content().get("bootstrap.json"))
        await until(lambda: gate.routed() == {"acme.digits": [9000]})
    listener = gate.content()["ecds/authn.json"].decode()
    assert gate.snapshot.issuer in listener
    assert str(gate.snapshot.jwks["keys"][0]["x"]) in listener


@pytest.mark.parametrize("missing", ["tokens", "workloads"])
async def test_each_thing_that_is_not_known_is_waited_for(gate: Gate, missing: str) -> None:
    async with gate.service() as files:
        if missing != "tokens":
            files.use_tokens(gate.tokens())
        if missing != "workloads":
            gate.feed.tell(BOOKMARK)
        await until(gate.feed.messages.empty)
        await asyncio.sleep(0)
        assert gate.content() == {}


async def test_routes_follow_the_replicas_and_the_deployment(gate: Gate) -> None:
    served = deployment()
    await gate.store(served)
    async with gate.service() as files:
        files.use_tokens(gate.tokens())
        gate.feed.tell(BOOKMARK)
        for ready in ((0,), (0, 1), (1,), ()):
            gate.feed.tell(CHANGED, workload(served, *ready))
            expected = {"acme.digits": [9000 + at for at in ready]}
            await until(lambda: gate.routed() == expected)  # noqa: B023
        gate.feed.tell(CHANGED, workload(served, 0, 1))
        await until(lambda: gate.routed() == {"acme.digits": [9000, 9001]})
        await gate.store(deployment(state=Deployment.DELETING))
        await until(lambda: gate.routed() == {})


async def test_a_workload_or_a_deployment_that_is_gone_has_no_route(gate: Gate) -> None:
    await gate.store(deployment("a"))
    await gate.store(deployment("b"))
    async with gate.service() as files:
        files.use_tokens(gate.tokens())
        for name in "ab":
            gate.feed.tell(CHANGED, workload(deployment(name), 0))
        gate.feed.tell(BOOKMARK)
        await until(lambda: gate.routed() == {"acme.a": [9000], "acme.b": [9000]})
        gate.feed.tell(DELETED, Workload(name=str(serving_name(deployment("a"), revision(deployment("a"))))))
        await until(lambda: gate.routed() == {"acme.b": [9000]})
        await gate.kv.txn([], [Delete(deployment_key(DeploymentName.parse(deployment("b").name)))])
        await until(lambda: gate.routed() == {})


async def test_a_restart_changes_nothing_at_any_moment(gate: Gate) -> None:
    served = deployment()
    await gate.store(served)
    async with gate.service() as files:
        files.use_tokens(gate.tokens())
        gate.feed.tell(CHANGED, workload(served, 0, 1))
        gate.feed.tell(BOOKMARK)
        await until(lambda: gate.routed() == {"acme.digits": [9000, 9001]} and "bootstrap.json" in gate.content())
    before = gate.content()
    async with gate.service() as files:
        files.use_tokens(gate.tokens())
        await until(lambda: gate.feed.messages.empty())
        assert gate.content() == before
        gate.feed.tell(CHANGED, workload(served, 0, 1))
        await until(gate.feed.messages.empty)
        assert gate.content() == before
        gate.feed.tell(BOOKMARK)
        gate.feed.tell(CHANGED, workload(served, 0, 1, 2))
        await until(lambda: gate.routed() == {"acme.digits": [9000, 9001, 9002]})


async def test_a_key_that_is_rolled_reaches_the_gateway_and_an_empty_set_never_does(gate: Gate) -> None:
    async with gate.service() as files:
        files.use_tokens(gate.tokens())
        gate.feed.tell(BOOKMARK)
        await until(lambda: gate.content().get("lds.json"))
        files.use_tokens(TokenRules(issuer="lepton", audience="lepton", jwks='{"keys": []}'))
        rolled = TokenRules(issuer="lepton", audience="lepton", jwks=json.dumps(TokenSigner().jwks))
        files.use_tokens(rolled)
        key = str(json.loads(rolled.jwks)["keys"][0]["x"]).encode()
        await until(lambda: key in gate.content()["ecds/authn.json"])


async def test_a_revocation_reaches_the_gateway_and_changes_no_listener(gate: Gate) -> None:
    async with gate.service() as files:
        files.use_tokens(gate.tokens())
        gate.feed.tell(BOOKMARK)
        await until(lambda: gate.content().get("bootstrap.json"))
        before = gate.content()
        files.use_tokens(gate.tokens(revision=2, revoked_tokens=frozenset({"feed0123"})))
        await until(lambda: b"feed0123" in gate.content()["ecds/policy.json"])
        after = gate.content()
        assert {path for path in after if after[path] != before[path]} == {"ecds/policy.json"}


async def test_a_folder_that_cannot_be_written_is_tried_again(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.inference.gateway._RETRY_S", 0.01)
    gate.folder.write_text("in the way")
    async with gate.service() as files:
        files.use_tokens(gate.tokens())
        gate.feed.tell(BOOKMARK)
        await until(gate.feed.messages.empty)
        gate.folder.unlink()
        await until(lambda: gate.content().get("bootstrap.json"))


@pytest.mark.parametrize(
    "tokens",
    [
        ("", "a", '{"keys": [1]}'),
        ("i", "", '{"keys": [1]}'),
        ("i", "a", ""),
        ("i", "a", "{}"),
        ("i", "a", '{"keys": []}'),
    ],
)
def test_rules_without_issuer_audience_or_keys_are_none(tokens: tuple[str, str, str]) -> None:
    issuer, audience, jwks = tokens
    assert not is_complete(TokenRules(issuer=issuer, audience=audience, jwks=jwks))


class Envoy:
    """An Envoy that answers what the test says."""

    def __init__(self, *ports: int) -> None:
        self.ports, self.asked, self.error = ports, 0, None  # type: tuple[int, ...], int, Exception | None

    async def healthy(self) -> dict[str, frozenset[Endpoint]]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return {"acme.digits@r1": frozenset(Endpoint(host="127.0.0.1", port=port) for port in self.ports)}


async def test_a_replica_is_routed_a_moment_after_envoy_knows_it() -> None:
    envoy, clock = Envoy(9000), ManualClock()
    routing = GatewayRouting(envoy, clock)
    assert await routing.routed("acme.digits", 1) == frozenset()
    await clock.advance(0.2)
    envoy.ports = (9000, 9001)
    assert await routing.routed("acme.digits", 1) == frozenset()
    await clock.advance(0.1)
    assert await routing.routed("acme.digits", 1) == {"127.0.0.1:9000"}
    assert await routing.routed("acme.other", 1) == frozenset()
    assert envoy.asked == 3  # one answer for all who ask together


@pytest.mark.parametrize("error", [ConnectionRefusedError(), ValueError("no JSON"), KeyError("cluster_statuses")])
async def test_an_envoy_that_cannot_be_asked_routes_nothing(error: Exception) -> None:
    envoy, clock = Envoy(9000), ManualClock()
    routing = GatewayRouting(envoy, clock)
    await routing.routed("acme.digits", 1)
    await clock.advance(1)
    assert await routing.routed("acme.digits", 1) == {"127.0.0.1:9000"}
    envoy.error = error
    await clock.advance(1)
    assert await routing.routed("acme.digits", 1) == frozenset()
    envoy.error = None
    await clock.advance(1)
    assert await routing.routed("acme.digits", 1) == frozenset()
    await clock.advance(1)
    assert await routing.routed("acme.digits", 1) == {"127.0.0.1:9000"}
