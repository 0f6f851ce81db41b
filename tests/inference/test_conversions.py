"""Conversions and optimisations under a residency policy: only in pools of the model's or the data's region."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chassis.clock import SystemClock
from chassis.compliance import Compliance
from chassis.compliance_watch import ComplianceWatch
from chassis.election import Election
from lepton.auth.v1.compliance_pb2 import ComplianceFinding, CompliancePolicy, ResidencyRule
from lepton.errors import FailedPrecondition, Unavailable
from lepton.inference.v1 import optimization_service_pb2 as pb
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.inference.v1.optimization_pb2 import Optimization, OptimizationVariant
from lepton.names import OptimizationName
from services.inference.batch.predictions import BatchPredictions
from services.inference.batch.reconciler import BatchReconciler
from services.inference.batch.states import prepare_name
from services.inference.compliance import ModelInspector
from services.inference.conversions import Conversions
from services.inference.optimizations.keys import LEADER as OPTIMIZER
from services.inference.optimizations.keys import optimization_key
from services.inference.optimizations.reconciler import OptimizationReconciler
from services.inference.optimizations.searches import Searches
from services.inference.optimizations.workloads import workload_name
from services.inference.reconciler import Reconciler
from services.inference.registry import Registry
from services.inference.store import LEADER
from tests.harness.compliance import KnownPools, Reports, governed, labelled, policy, rule_by
from tests.harness.shown import shown
from tests.inference.batch.test_batch_servicer import request as batch_request
from tests.inference.conftest import World, deployment_request, version_request, workload_of

EU, US = ("pools/eu",), ("pools/us",)
LAW = policy("law", ResidencyRule())


class Ruled:
    """The parts of an inference service that convert, under policies that the test makes."""

    def __init__(self, world: World, export_pools: tuple[str, ...] = US) -> None:
        self.world, self.export_pools = world, export_pools
        self.compliance: Compliance = governed()
        self.registry = Registry(world.kv, world.artifacts, self.compliance)
        self.conversions = Conversions(self.registry, export_pools)

    async def version(self, model_id: str = "m", **tags: str) -> ModelVersion:
        request = version_request(await self.world.model(model_id), await self.world.package())
        request.model_version.tags.update(tags)
        return await self.registry.create_version(request)

    async def search(self, version: ModelVersion, optimization_id: str = "o", **fields: Any) -> Optimization:
        request = pb.CreateOptimizationRequest(
            parent=version.name.partition("/versions/")[0],
            optimization_id=optimization_id,
            optimization=Optimization(variants=["graph"], **fields),
            request_id=str(uuid.uuid4()),
        )
        world = self.world
        searches = Searches(world.kv, self.registry, world.artifacts, conversions=self.conversions)
        return await searches.create(request)

    async def seen(self, search: Optimization, condition: Callable[[Optimization], bool]) -> Optimization:
        key = optimization_key(OptimizationName.parse(search.name))
        found: Optimization = await shown(
            self.world.kv, key, Optimization, lambda now: now is not None and condition(now)
        )
        return found

    async def look(self) -> list[ComplianceFinding]:
        reports = Reports()
        inspector = ModelInspector(self.world.kv, self.registry, self.export_pools)
        await ComplianceWatch(self.compliance, inspector, reports, SystemClock(), every_s=30).round()
        return reports.last

    @asynccontextmanager
    async def searching(self) -> AsyncIterator[None]:
        world = self.world
        election = Election(world.kv, OPTIMIZER, "i1")
        made = OptimizationReconciler(world.kv, election, world.ledger, world.artifacts, self.conversions)
        async with running(made):
            yield

    @asynccontextmanager
    async def deploying(self) -> AsyncIterator[None]:
        world = self.world
        election = Election(world.kv, LEADER, "i1")
        made = Reconciler(
            world.kv,
            election,
            world.ledger,
            self.registry,
            world.artifacts,
            world.routing,
            world.watch,
            self.conversions,
        )
        async with running(made):
            yield

    async def pools_of(self, workload: str) -> tuple[str, ...]:
        return tuple((await self.world.scheduler.workload(workload)).pools)


@asynccontextmanager
async def running(reconciler: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(reconciler.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def ruled(scheduled_world: World) -> Ruled:
    return Ruled(scheduled_world)


async def test_an_optimisation_that_names_pools_elsewhere_is_refused(ruled: Ruled) -> None:
    version = await ruled.version(region="eu")
    rule_by(ruled.compliance, LAW)
    with pytest.raises(FailedPrecondition) as caught:
        await ruled.search(version, pools=["pools/eu", "pools/us"])
    told = caught.value.metadata
    assert (told["policy"], told["rule"], told["fix"]) == (LAW.name, "residency", "name pools with region eu: pools/eu")
    assert "pools/us is of region us" in told["problem"]
    assert (await ruled.search(version, pools=EU)).pools == list(EU)


async def test_one_that_names_no_pools_goes_where_it_may_and_says_so(ruled: Ruled) -> None:
    version = await ruled.version(region="us")
    rule_by(ruled.compliance, LAW)
    made = await ruled.search(version)
    assert tuple(made.pools) == US
    async with ruled.searching():
        assert await ruled.pools_of(str(workload_name(made, "graph"))) == US


async def test_of_any_pools_those_of_the_region_are_taken(scheduled_world: World) -> None:
    ruled = Ruled(scheduled_world, export_pools=())
    version = await ruled.version(region="eu")
    rule_by(ruled.compliance, LAW)
    assert tuple((await ruled.search(version)).pools) == EU


async def test_where_no_pool_of_conversions_is_in_the_region_it_is_refused(ruled: Ruled) -> None:
    dataset = await ruled.world.artifacts.put_bytes("acme", b"rows")
    version = await ruled.version()
    rule_by(ruled.compliance, LAW, data=labelled(dataset, region="eu"))
    with pytest.raises(FailedPrecondition) as caught:  # for its data, whatever the model says
        await ruled.search(version, dataset=dataset)
    assert caught.value.metadata["fix"] == "name pools with region eu: pools/eu"
    assert tuple((await ruled.search(version, "without-it")).pools) == US


async def test_control_without_the_policy_it_goes_anywhere(ruled: Ruled) -> None:
    version = await ruled.version(region="eu")
    made = await ruled.search(version)
    assert not made.pools
    async with ruled.searching():
        assert await ruled.pools_of(str(workload_name(made, "graph"))) == US


async def test_while_pools_are_not_known_nothing_is_placed(ruled: Ruled) -> None:
    version = await ruled.version(region="eu")
    blind = governed(LAW, pools=KnownPools())
    ruled.registry.compliance = blind
    with pytest.raises(Unavailable, match="COMPLIANCE_NOT_READY"):
        await ruled.search(version, pools=EU)


async def test_a_policy_that_comes_later_keeps_further_variants_from_being_made(ruled: Ruled) -> None:
    made = await ruled.search(await ruled.version(region="eu"), pools=US)
    rule_by(ruled.compliance, LAW)
    async with ruled.searching():
        ended = await ruled.seen(made, lambda now: now.state == Optimization.FAILED)
    (variant,) = ended.variant_states
    assert variant.state == OptimizationVariant.FAILED
    assert f"{LAW.name} does not allow it (rule residency)" in variant.message


async def test_an_optimisation_elsewhere_is_found_and_stopped_when_the_policy_says_so(ruled: Ruled) -> None:
    made = await ruled.search(await ruled.version(region="eu"))
    rule_by(ruled.compliance, LAW)
    (found,) = await ruled.look()
    assert (found.resource, found.action) == (made.name, ComplianceFinding.REPORTED)
    assert "pools/us is of region us" in found.message
    rule_by(ruled.compliance, policy("law", ResidencyRule(), remedy=CompliancePolicy.QUARANTINE))
    (found,) = await ruled.look()
    assert found.action == ComplianceFinding.QUARANTINED
    stopped = await ruled.seen(made, lambda now: now.state == Optimization.CANCELLING)
    assert stopped.message.startswith(f"stopped by {LAW.name} (rule residency)")


async def deployed(ruled: Ruled, version: ModelVersion, *pools: str) -> Deployment:
    return await ruled.world.served.create(deployment_request(version.name, "digits", pools=pools))


async def test_a_model_is_exported_for_a_deployment_in_its_region(ruled: Ruled) -> None:
    """The pools of exports are elsewhere, so those that it is served in are taken."""
    made = await deployed(ruled, await ruled.version(region="eu"), *EU)
    rule_by(ruled.compliance, LAW)
    async with ruled.deploying():
        assert await ruled.pools_of(workload_of(made, "export", 1)) == EU


@pytest.mark.parametrize("mode", [None, CompliancePolicy.WARN])
async def test_control_without_a_policy_in_force_it_is_exported_where_all_are(ruled: Ruled, mode: Any) -> None:
    made = await deployed(ruled, await ruled.version(region="eu"), *EU)
    rule_by(ruled.compliance, *([policy("law", ResidencyRule(), mode=mode)] if mode is not None else []))
    async with ruled.deploying():
        assert await ruled.pools_of(workload_of(made, "export", 1)) == US


async def test_a_deployment_whose_model_may_be_exported_nowhere_says_why(ruled: Ruled) -> None:
    made = await deployed(ruled, await ruled.version(region="eu"), *US)  # before the policy
    rule_by(ruled.compliance, LAW)
    async with ruled.deploying():
        failed = await ruled.world.in_state(made, Deployment.FAILED)
    assert f"{LAW.name} does not allow it (rule residency)" in failed.message
    assert "name pools with region eu" in failed.message


@pytest.mark.parametrize(("labels", "expected"), [({"region": "eu"}, EU), ({}, US + EU)])
async def test_a_batch_is_prepared_where_its_data_may_be(
    scheduled_world: World, labels: dict[str, str], expected: tuple[str, ...]
) -> None:
    """It names no pools, and was there before the policy. The control is data of no region."""
    ruled = Ruled(scheduled_world, export_pools=US + EU)
    world, version = ruled.world, await ruled.version()
    dataset = await world.artifacts.put_bytes("acme", b"rows")
    made = await predicted(ruled, version, dataset)
    rule_by(ruled.compliance, LAW, data=labelled(dataset, **labels))
    election = Election(world.kv, "batch_leader", "i1")
    places = ruled.conversions
    async with running(BatchReconciler(world.kv, election, world.ledger, ruled.registry, world.artifacts, places)):
        assert await ruled.pools_of(str(prepare_name(made))) == expected


async def predicted(ruled: Ruled, version: ModelVersion, dataset: str) -> BatchPrediction:
    batches = BatchPredictions(ruled.world.kv, ruled.registry, ruled.world.artifacts)
    return await batches.create(batch_request(version.name, dataset))
