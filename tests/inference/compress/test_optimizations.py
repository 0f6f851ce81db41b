"""Optimisations go from a version to a proposal, whatever dies in between; as clients see them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from chassis.election import Election
from chassis.paging import Pager
from lepton.errors import AlreadyExists, FailedPrecondition, InvalidArgument, LeptonError, NotFound
from lepton.inference.v1 import inference_service_pb2 as service_pb
from lepton.inference.v1 import optimization_service_pb2 as pb
from lepton.inference.v1 import registry_pb2 as registry_pb
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.inference.v1.optimization_pb2 import Optimization, OptimizationRule, OptimizationVariant
from lepton.inference.v1.optimization_service_pb2_grpc import (
    OptimizationServiceStub,
    add_OptimizationServiceServicer_to_server,
)
from lepton.names import OptimizationName, WorkloadName
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference.compress.figures import Report
from services.inference.conversions import Conversions
from services.inference.optimizations.keys import LEADER, optimization_key
from services.inference.optimizations.reconciler import OptimizationReconciler
from services.inference.optimizations.searches import Searches
from services.inference.optimizations.servicer import OptimizationServicer
from services.inference.optimizations.workloads import workload_name
from services.inference.quarantine import Quarantines
from services.inference.store import PAGE_KEY
from tests.harness.crashes import Crash, MortalKV, MortalLedger, Steps
from tests.harness.mesh import ROLES, Mesh, serving
from tests.harness.shown import shown
from tests.inference.compress.test_selection import figures
from tests.inference.conftest import World

Variant = OptimizationVariant
NAMES = ("graph", "int8-static", "pruned")


@pytest.fixture
def world(scheduled_world: World) -> World:
    return scheduled_world


def searches(world: World) -> Searches:
    return Searches(world.kv, world.registry, world.artifacts)


async def begun(world: World, names: tuple[str, ...] = NAMES, **fields: Any) -> tuple[Optimization, ModelVersion]:
    version = await world.version(await world.model())
    parent = version.name.rpartition("/versions/")[0]
    request = pb.CreateOptimizationRequest(
        parent=parent,
        optimization_id="o",
        optimization=Optimization(variants=names, **fields),
        request_id=str(uuid.uuid4()),
    )
    return await searches(world).create(request), version


def conversions(world: World) -> Conversions:
    return Conversions(world.registry, ("pools/export",))


def reconciler(world: World, steps: Steps | None = None) -> OptimizationReconciler:
    kv: Any = world.kv if steps is None else MortalKV(world.kv, steps)
    ledger: Any = world.ledger if steps is None else MortalLedger(world.ledger, steps)
    return OptimizationReconciler(kv, Election(world.kv, LEADER, "i1"), ledger, world.artifacts, conversions(world))


@asynccontextmanager
async def reconciling(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(reconciler(world).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def seen(world: World, optimization: Optimization, condition: Any) -> Optimization:
    key = optimization_key(OptimizationName.parse(optimization.name))
    found: Optimization = await shown(world.kv, key, Optimization, lambda o: o is not None and condition(o))
    return found


async def gone(world: World, optimization: Optimization) -> None:
    key = optimization_key(OptimizationName.parse(optimization.name))
    await shown(world.kv, key, Optimization, lambda current: current is None)


async def report(world: World, optimization: Optimization, variant: str, **given: Any) -> None:
    """The variant's workload ends well, with these figures."""
    name = str(workload_name(optimization, variant))
    await world.scheduler.workload(name)
    made = Report(variant=variant, figures=figures(**given), original=figures(), package="sha256:" + "a" * 64)
    digest = await world.artifacts.put_bytes("acme", made.render())
    await world.scheduler.place(name)
    await world.scheduler.end(name, Workload.SUCCEEDED, outputs={"report": digest})


async def stopped(world: World, names: list[str]) -> None:
    """The agents have stopped what was asked to stop."""
    for name in names:
        await world.scheduler.workload(name, lambda w: w.state in {Workload.CANCELLING, Workload.CANCELLED})
        await world.scheduler.end(name, Workload.CANCELLED)


def states(optimization: Optimization) -> dict[str, str]:
    return {each.variant: Variant.State.Name(each.state) for each in optimization.variant_states}


async def test_every_variant_is_a_workload_and_the_best_within_the_rule_is_proposed(world: World) -> None:
    optimization, version = await begun(world, priority=7)
    assert (optimization.model_version, optimization.package) == (version.name, version.package)
    assert optimization.rule.max_accuracy_drop == 0.005
    async with reconciling(world):
        for variant in NAMES:
            workload = await world.scheduler.workload(str(workload_name(optimization, variant)))
            assert (workload.owner, workload.kind, workload.priority) == (optimization.name, Workload.BATCH, 7)
            assert list(workload.pools) == ["pools/export"]
            assert f'"variant": "{variant}"' in workload.groups[0].program.torch.spec_json
        await report(world, optimization, "graph", latency_p50_us=90.0)
        running = await seen(world, optimization, lambda o: states(o)["graph"] == "ACCEPTED")
        assert running.state == Optimization.RUNNING
        await report(world, optimization, "int8-static", latency_p50_us=40.0, bytes=250, accuracy_drop=0.001)
        await report(world, optimization, "pruned", latency_p50_us=10.0, bytes=100, accuracy_drop=0.03)
        done = await seen(world, optimization, lambda o: o.state == Optimization.SUCCEEDED)
        for variant in NAMES:
            await world.scheduler.gone(str(workload_name(optimization, variant)))
    assert states(done) == {"graph": "ACCEPTED", "int8-static": "ACCEPTED", "pruned": "REFUSED"}
    assert (done.proposed, done.proposed_package) == ("int8-static", "sha256:" + "a" * 64)
    assert [each.variant for each in done.variant_states if each.is_proposed] == ["int8-static"]
    refused = next(each for each in done.variant_states if each.variant == "pruned")
    assert "3.00 %" in refused.message
    assert refused.measurement.bytes == 100  # refused with its numbers
    assert not refused.is_pareto
    assert (done.percent, done.HasField("end_time")) == (100, True)


async def test_what_a_variant_does_now_is_told_while_it_runs(world: World) -> None:
    optimization, _ = await begun(world, ("graph", "pruned"))
    name = str(workload_name(optimization, "pruned"))
    async with reconciling(world):
        await world.scheduler.workload(name)
        await world.scheduler.place(name)
        piece = Slice(index=0, group="variant", state=Slice.RUNNING, message="40% retuning")
        await world.scheduler.change(name, state=Workload.RUNNING, slices=[piece])
        told = await seen(world, optimization, lambda o: o.percent == 20)
    (variant,) = (each for each in told.variant_states if each.variant == "pruned")
    assert (variant.percent, variant.phase, variant.workload) == (40, "retuning", name)
    assert told.message == "0 of 2 variants measured, 1 at work"


async def test_the_failure_of_one_variant_leaves_the_others_alone(world: World) -> None:
    optimization, _ = await begun(world)
    async with reconciling(world):
        name = str(workload_name(optimization, "graph"))
        await world.scheduler.workload(name)
        await world.scheduler.place(name)
        await world.scheduler.end(name, Workload.FAILED, "out of memory")
        await world.scheduler.workload(str(workload_name(optimization, "pruned")))
        await world.scheduler.forget(str(workload_name(optimization, "pruned")))
        await report(world, optimization, "int8-static", latency_p50_us=40.0)
        done = await seen(world, optimization, lambda o: o.state == Optimization.SUCCEEDED)
    assert states(done) == {"graph": "FAILED", "int8-static": "ACCEPTED", "pruned": "FAILED"}
    assert next(each.message for each in done.variant_states) == "out of memory"
    assert done.proposed == "int8-static"


async def test_without_any_figures_it_has_failed_and_without_a_winner_it_proposes_nothing(world: World) -> None:
    optimization, _ = await begun(world, ("graph",))
    async with reconciling(world):
        name = str(workload_name(optimization, "graph"))
        await world.scheduler.workload(name)
        await world.scheduler.place(name)
        await world.scheduler.end(name, Workload.FAILED, "no such package")
        failed = await seen(world, optimization, lambda o: o.state == Optimization.FAILED)
        assert "no such package" in failed.message
        await searches(world).delete(pb.DeleteOptimizationRequest(name=optimization.name))
        await gone(world, optimization)
        request = pb.CreateOptimizationRequest(
            parent=optimization.name.rpartition("/optimizations/")[0],
            optimization_id="p",
            optimization=Optimization(variants=["graph"], rule=OptimizationRule(max_size_ratio=0.5)),
        )
        other = await searches(world).create(request)
        await report(world, other, "graph", bytes=990)
        done = await seen(world, other, lambda o: o.state == Optimization.SUCCEEDED)
    assert done.proposed == ""
    assert "500 bytes are allowed, and graph, the smallest, has 990" in done.message


async def test_cancelling_stops_what_runs_and_keeps_what_was_measured(world: World) -> None:
    optimization, _ = await begun(world)
    async with reconciling(world):
        await report(world, optimization, "graph", latency_p50_us=90.0)
        await seen(world, optimization, lambda o: states(o)["graph"] == "ACCEPTED")
        names = [str(workload_name(optimization, variant)) for variant in ("int8-static", "pruned")]
        for name in names:
            await world.scheduler.workload(name)
        request = pb.CancelOptimizationRequest(name=optimization.name, request_id=str(uuid.uuid4()))
        assert (await searches(world).cancel(request)).state == Optimization.CANCELLING
        assert (await searches(world).cancel(request)).state == Optimization.CANCELLING  # a repeat is the same call
        await stopped(world, names)
        done = await seen(world, optimization, lambda o: o.state == Optimization.CANCELLED)
        assert states(done) == {"graph": "ACCEPTED", "int8-static": "CANCELLED", "pruned": "CANCELLED"}
        for name in names:
            await world.scheduler.gone(name)
        with pytest.raises(FailedPrecondition, match="OPTIMIZATION_ENDED"):
            await searches(world).cancel(pb.CancelOptimizationRequest(name=optimization.name))


async def test_a_deleted_optimization_takes_its_workloads_with_it(world: World) -> None:
    optimization, _ = await begun(world)
    async with reconciling(world):
        for variant in NAMES:
            await world.scheduler.workload(str(workload_name(optimization, variant)))
        await searches(world).delete(pb.DeleteOptimizationRequest(name=optimization.name))
        await stopped(world, [str(workload_name(optimization, variant)) for variant in NAMES])
        await gone(world, optimization)
        assert await world.scheduler.names() == []


async def test_a_leader_that_dies_at_any_step_loses_nothing_and_does_nothing_twice(world: World) -> None:
    optimization, _ = await begun(world, ("graph", "int8-static"))
    deaths = 0
    for step in range(1, 40):
        steps = Steps(step)
        running = asyncio.create_task(reconciler(world, steps).run())

        async def until_done() -> None:
            for variant in ("graph", "int8-static"):
                current = await seen(world, optimization, lambda o: True)
                if states(current)[variant] in ("PENDING", "RUNNING"):
                    name = str(workload_name(optimization, variant))
                    if not (await world.scheduler.workload(name)).slices:
                        await report(world, optimization, variant, latency_p50_us=50.0)
                await seen(world, optimization, lambda o, v=variant: states(o)[v] == "ACCEPTED")
            await seen(world, optimization, lambda o: o.state == Optimization.SUCCEEDED)

        reached = asyncio.ensure_future(until_done())
        await asyncio.wait({running, reached}, return_when=asyncio.FIRST_COMPLETED)
        is_done = reached.done()
        for each in (running, reached):
            each.cancel()
        outcomes = await asyncio.gather(running, reached, return_exceptions=True)
        if is_done:
            assert outcomes[1] is None, outcomes[1]
            break
        assert isinstance(outcomes[0], BaseExceptionGroup), outcomes
        assert outcomes[0].subgroup(Crash) is not None
        deaths += 1
    done = await seen(world, optimization, lambda o: o.state == Optimization.SUCCEEDED)
    assert deaths >= 3
    assert states(done) == {"graph": "ACCEPTED", "int8-static": "ACCEPTED"}
    created = world.scheduler.calls["CreateWorkload"]
    assert len({WorkloadName.parse(name).workload for name in await world.scheduler.names()}) <= 2 <= created


async def test_a_model_keeps_as_long_as_a_search_of_it_runs_and_takes_those_that_ended_with_it(world: World) -> None:
    optimization, version = await begun(world, ("graph",))
    model = version.name.rpartition("/versions/")[0]
    with pytest.raises(FailedPrecondition) as refused:
        await world.registry.delete_model(service_pb.DeleteModelRequest(name=model))
    assert (refused.value.reason, refused.value.metadata["user"]) == ("MODEL_IN_USE", optimization.name)
    async with reconciling(world):
        await report(world, optimization, "graph")
        await seen(world, optimization, lambda o: o.state == Optimization.SUCCEEDED)
        await world.registry.delete_model(service_pb.DeleteModelRequest(name=model))
        await gone(world, optimization)
        await world.scheduler.gone(str(workload_name(optimization, "graph")))


async def test_a_quarantined_version_is_not_optimised(world: World) -> None:
    version = await world.version(await world.model())
    quarantines = Quarantines(world.kv, world.registry)
    asked = pb.CreateOptimizationRequest(
        parent=version.name.rpartition("/versions/")[0], optimization_id="o", request_id=str(uuid.uuid4())
    )
    await quarantines.quarantine(registry_pb.QuarantineModelsRequest(parent="projects/acme", source=version.package))
    with pytest.raises(FailedPrecondition, match="VERSION_QUARANTINED"):
        await searches(world).create(asked)
    await quarantines.release(registry_pb.ReleaseModelsRequest(parent="projects/acme", source=version.package))
    assert (await searches(world).create(asked)).state == Optimization.PENDING


async def test_a_repeated_request_is_one_search(world: World) -> None:
    version = await world.version(await world.model())
    request = pb.CreateOptimizationRequest(
        parent=version.name.rpartition("/versions/")[0], optimization_id="o", request_id=str(uuid.uuid4())
    )
    first = await searches(world).create(request)
    assert await searches(world).create(request) == first
    assert first.target == Optimization.LATENCY
    assert {each.variant for each in first.variant_states} >= {"graph", "int8-static", "pruned-int8", "aot-fp32"}
    with pytest.raises(AlreadyExists, match="OPTIMIZATION_ALREADY_EXISTS"):
        await searches(world).create(
            pb.CreateOptimizationRequest(parent=request.parent, optimization_id="o", request_id=str(uuid.uuid4()))
        )


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"variants": ["int4"]}, InvalidArgument),
        ({"variants": ["tensorrt-fp16"]}, InvalidArgument),
        ({"model_version": "7"}, NotFound),
        ({"model_version": "projects/acme/models/other/versions/1"}, InvalidArgument),
        ({"dataset": "sha256:" + "0" * 64}, InvalidArgument),
        ({"queue": "nowhere"}, InvalidArgument),
        ({"pools": ["x"]}, InvalidArgument),
    ],
)
async def test_what_cannot_be_searched_is_refused_at_once(
    world: World, fields: dict[str, Any], error: type[LeptonError]
) -> None:
    version = await world.version(await world.model())
    request = pb.CreateOptimizationRequest(
        parent=version.name.rpartition("/versions/")[0], optimization_id="o", optimization=Optimization(**fields)
    )
    with pytest.raises(error):
        await searches(world).create(request)


@pytest.fixture
async def mesh(world: World) -> AsyncIterator[Mesh]:
    servicer = OptimizationServicer(world.kv, searches(world), await Pager.open(world.kv, PAGE_KEY))
    async with serving((add_OptimizationServiceServicer_to_server, servicer), name="inference") as mesh:
        mesh.change_policy(roles={**ROLES, "roles/developer": ROLES["roles/developer"] | {"optimizations.*"}})
        yield mesh


async def test_clients_list_get_and_watch_searches_of_one_model_or_of_all(world: World, mesh: Mesh) -> None:
    first, _ = await begun(world)
    async with mesh.client() as channel:
        stub: Any = OptimizationServiceStub(channel)
        assert (await stub.GetOptimization(pb.GetOptimizationRequest(name=first.name))).uid == first.uid
        of_model, every = first.name.rpartition("/optimizations/")[0], "projects/acme/models/-"
        for parent in (of_model, every):
            listed = await stub.ListOptimizations(pb.ListOptimizationsRequest(parent=parent))
            assert [each.name for each in listed.optimizations] == [first.name]
        events = []
        watch = stub.WatchOptimizations(pb.WatchOptimizationsRequest(parent=every, name=first.name))
        await stub.DeleteOptimization(pb.DeleteOptimizationRequest(name=first.name))
        async with reconciling(world), aclosing(aiter(watch)) if hasattr(watch, "aclose") else _plain(watch) as stream:
            async for event in stream:
                events.append(event.event)
                if event.event == pb.WatchOptimizationsResponse.DELETED:
                    assert event.optimization.name == first.name
                    break
        watch.cancel()
        assert events[0] == pb.WatchOptimizationsResponse.CHANGED
        with pytest.raises(NotFound):
            await stub.GetOptimization(pb.GetOptimizationRequest(name=first.name))


@asynccontextmanager
async def _plain(stream: Any) -> AsyncIterator[Any]:
    yield stream
