"""Who may deploy what where: grants on conditions, and limits of principals."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chassis.access import Binding, PolicyReplica, PolicySnapshot
from chassis.clock import SystemClock
from chassis.conditions import Condition, Window
from chassis.paging import Pager
from chassis.principal_limits import Allowance, PrincipalLimit
from lepton.errors import PermissionDenied, ResourceExhausted
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from services.inference.counting import DEPLOYMENTS, counted_by_kind
from services.inference.deployments import Deployments
from services.inference.envoy.access import call_rules
from services.inference.servicer import InferenceServicer
from services.inference.store import PAGE_KEY
from tests.harness.mesh import ROLES, Mesh, serving
from tests.inference.conftest import PROJECT, World, deployment_request

ALICE = "users/alice"
DEVELOPER = ROLES["roles/developer"] | {"models.*", "deployments.*"}


@pytest.fixture
async def mesh(world: World) -> AsyncIterator[Mesh]:
    access = PolicyReplica()
    counted = counted_by_kind(world.kv, access, SystemClock())
    counting = [asyncio.create_task(each.run()) for each in counted.values()]
    served = Deployments(world.kv, world.registry, "gateway:443", counted[DEPLOYMENTS], access)
    servicer = InferenceServicer(world.kv, world.registry, served, await Pager.open(world.kv, PAGE_KEY))
    registration = (add_InferenceServiceServicer_to_server, servicer)
    async with serving(registration, name="inference", access=access) as running:
        running.change_policy(roles={**ROLES, "roles/developer": DEVELOPER})
        yield running
    for each in counting:
        each.cancel()


@pytest.fixture
async def stub(mesh: Mesh) -> AsyncIterator[Any]:
    async with mesh.client() as channel:
        yield InferenceServiceStub(channel)


def on_condition(mesh: Mesh, condition: Condition | None) -> None:
    grant = Binding(principal=ALICE, role="roles/developer", scope=PROJECT, condition=condition)
    mesh.change_policy(bindings=(grant,))


async def test_a_deployment_stays_in_the_pools_of_who_changes_it(mesh: Mesh, stub: Any, world: World) -> None:
    version = (await world.version(await world.model())).name
    here = await stub.CreateDeployment(deployment_request(version, "here", pools=["pools/a"]))
    there = await stub.CreateDeployment(deployment_request(version, "there", pools=["pools/b"]))
    assert here.creator == ALICE
    on_condition(mesh, Condition(pools=frozenset({"pools/a"})))

    def update(**fields: Any) -> Any:
        return stub.UpdateDeployment(pb.UpdateDeploymentRequest(deployment=Deployment(**fields)))

    await update(name=here.name, replicas=3)
    for refused in (
        lambda: update(name=there.name, replicas=3),  # it names no pool, and would run more in pools/b
        lambda: update(name=here.name, replicas=3, pools=["pools/b"]),
        lambda: stub.CreateDeployment(deployment_request(version, "new", pools=["pools/b"])),
        lambda: stub.CreateDeployment(deployment_request(version, "new")),
    ):
        with pytest.raises(PermissionDenied, match="CONDITION_NOT_MET"):
            await refused()
    on_condition(mesh, None)
    moved = await update(name=here.name, replicas=3, pools=["pools/b"])
    assert list(moved.pools) == ["pools/b"]
    on_condition(mesh, Condition(pools=frozenset({"pools/b"})))
    with pytest.raises(PermissionDenied, match="CONDITION_NOT_MET"):  # back to pools/a
        await stub.UndoDeploymentRollout(pb.UndoDeploymentRolloutRequest(name=here.name))


async def test_deployments_count_until_they_are_gone(mesh: Mesh, stub: Any, world: World) -> None:
    version = (await world.version(await world.model())).name
    mesh.change_policy(limits=(PrincipalLimit(members=(ALICE,), allowance=Allowance(max_unfinished=1)),))
    await stub.CreateDeployment(deployment_request(version, "one"))
    with pytest.raises(ResourceExhausted) as caught:
        await stub.CreateDeployment(deployment_request(version, "two"))
    assert caught.value.metadata["unit"] == "deployments"
    mesh.change_policy(limits=())
    await stub.CreateDeployment(deployment_request(version, "two"))


def test_a_grant_for_hours_gives_predictions_within_them_and_one_for_pools_always() -> None:
    for condition, minute, granted in (
        (None, 0, {ALICE: frozenset({"acme"})}),
        (Condition(pools=frozenset({"pools/a"})), 0, {ALICE: frozenset({"acme"})}),
        (Condition(windows=(Window(start=0, end=60, zone="UTC"),)), 59, {ALICE: frozenset({"acme"})}),
        (Condition(windows=(Window(start=0, end=60, zone="UTC"),)), 60, {}),
    ):
        binding = Binding(principal=ALICE, role="roles/developer", scope=PROJECT, condition=condition)
        snapshot = PolicySnapshot(
            revision=1, roles={"roles/developer": DEVELOPER}, bindings=(binding,), issuer="i", audience="a"
        )
        assert call_rules(snapshot, minute).grants == granted
