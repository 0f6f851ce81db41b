"""Rollouts by the real reconciler over real records: only the scheduler's placements and the gateway are the test's."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lepton.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.inference.v1.rollout_pb2 import Canary, GateVerdict, PromotionGate, RolloutStatus, Strategy
from lepton.inference.v1.serving_options_pb2 import ServingOptions
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference import sizing
from services.inference.revisions import Revisions
from services.inference.rollout.advance import Evidence
from services.inference.rollouts import Rollouts
from services.inference.sizing import Size
from tests.harness.crashes import Steps
from tests.harness.wait import until
from tests.inference.conftest import World, workload_of

MANUAL = Strategy(canary=Canary(steps=[Canary.Step(weight=10, manual=True), Canary.Step(weight=50, manual=True)]))


@pytest.fixture
def world(scheduled_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("services.inference.rollout.advance.TAKEOVER_S", 0.0)
    monkeypatch.setattr("services.inference.rollout.advance.DRAIN_S", 0.0)
    monkeypatch.setattr("services.inference.reconciler._ROLLOUT_S", 0.01)
    return scheduled_world


async def update(world: World, deployment: Deployment, **fields: Any) -> Deployment:
    wanted = Deployment(name=deployment.name, **fields)
    return await world.served.update(
        pb.UpdateDeploymentRequest(deployment=wanted, update_mask=FieldMask(paths=list(fields)))
    )


async def next_version(world: World, deployment: Deployment) -> str:
    model = deployment.model_version.rpartition("/versions/")[0]
    return (await world.version(await world.registry.get_model(model))).name


async def replicas(world: World, deployment: Deployment, revision: int) -> None:
    """Every replica that a revision's workload asks for gets ready, now and later, until it ends."""
    name = workload_of(deployment, "serve", revision)
    workload = await world.scheduler.workload(name)
    while True:
        count = workload.groups[0].max_count
        await world.scheduler.ready(name, *range(count))

        def is_resized(current: Workload, count: int = count) -> bool:
            return current.groups[0].max_count != count or current.state == Workload.CANCELLING

        workload = await world.scheduler.workload(name, is_resized)
        if workload.state == Workload.CANCELLING:
            await world.scheduler.end(name, Workload.CANCELLED)
            return


async def served(world: World, tasks: asyncio.TaskGroup, **fields: Any) -> Deployment:
    """A deployment whose first revision is ready."""
    deployment = await world.deployed(**fields)
    await world.exported(deployment)
    tasks.create_task(replicas(world, deployment, 1))
    return await world.in_state(deployment, Deployment.READY)


async def rolled(world: World, deployment: Deployment, state: Any, revision: int = 0) -> Deployment:
    """The deployment when the rollout to its newest revision is over and nothing else has replicas."""

    def is_over(current: Deployment) -> bool:
        status = current.rollout
        numbers = {status.stable_revision, status.candidate_revision}
        return status.state == state and len(status.targets) == 1 and (revision or current.revision) in numbers

    return await world.deployment(deployment, is_over)


async def end_all(world: World, deployment: Deployment) -> None:
    await world.served.delete(pb.DeleteDeploymentRequest(name=deployment.name))
    await world.gone(deployment)


async def test_another_version_is_another_revision_with_its_own_workload(world: World) -> None:
    async with world.reconciling(), asyncio.TaskGroup() as tasks:
        deployment = await served(world, tasks)
        changed = await update(world, deployment, model_version=await next_version(world, deployment))
        assert (changed.revision, changed.rollout.stable_revision) == (2, 1)
        await world.exported(deployment, 2)
        tasks.create_task(replicas(world, deployment, 2))
        done = await rolled(world, deployment, RolloutStatus.COMPLETED)
        await world.scheduler.gone(workload_of(deployment, "serve", 1))
        assert [(each.revision, each.weight) for each in done.rollout.targets] == [(2, 100)]
        assert done.workload == workload_of(deployment, "serve", 2)
        known = await Revisions(world.kv).all(deployment.name)
        assert known[1].model_version != known[2].model_version == done.model_version
        assert known[2].HasField("promote_time")
        await end_all(world, deployment)
    assert await Revisions(world.kv).all(deployment.name) == {}


async def test_how_a_model_is_run_is_template_and_its_number_of_replicas_is_not(world: World) -> None:
    async with world.reconciling(), asyncio.TaskGroup() as tasks:
        deployment = await served(world, tasks)
        assert (await update(world, deployment, replicas=3, min_replicas=1)).revision == 1
        assert (await update(world, deployment, strategy=MANUAL)).revision == 1
        assert (await update(world, deployment, model_version=deployment.model_version)).revision == 1
        assert (await update(world, deployment, cpu_milli=300)).revision == 2
        between = asyncio.create_task(replicas(world, deployment, 2))  # in case that it is begun before the next comes
        changed = await update(world, deployment, serving=ServingOptions(max_batch_size=8), strategy=Strategy())
        assert changed.revision == 3
        tasks.create_task(replicas(world, deployment, 3))
        await world.exported(deployment, 3)
        done = await rolled(world, deployment, RolloutStatus.COMPLETED)
        group = (await world.scheduler.workload(done.workload)).groups[0]
        assert group.resources.cpu_milli == 300

        async def is_retired() -> bool:
            return (await Revisions(world.kv).all(deployment.name))[2].state == DeploymentRevision.RETIRED

        await until(is_retired)
        await end_all(world, deployment)
        between.cancel()
        await asyncio.gather(between, return_exceptions=True)


async def test_what_the_servers_load_is_not_made_again_for_a_template_that_loads_the_same(world: World) -> None:
    async with world.reconciling(), asyncio.TaskGroup() as tasks:
        deployment = await served(world, tasks)
        await update(world, deployment, memory_bytes=1 << 29)
        tasks.create_task(replicas(world, deployment, 2))
        await rolled(world, deployment, RolloutStatus.COMPLETED)
        assert workload_of(deployment, "export", 2) not in await world.scheduler.names()
        await end_all(world, deployment)


async def test_a_rollout_is_paused_promoted_and_aborted(world: World) -> None:
    steer = Rollouts(world.kv)
    async with world.reconciling(), asyncio.TaskGroup() as tasks:
        deployment = await served(world, tasks)
        name = deployment.name
        with pytest.raises(FailedPrecondition, match="ROLLOUT_NOT_IN_PROGRESS"):
            await steer.pause(pb.PauseDeploymentRolloutRequest(name=name))
        await update(world, deployment, cpu_milli=300, strategy=MANUAL)
        tasks.create_task(replicas(world, deployment, 2))
        waits = await world.deployment(deployment, at(10, RolloutStatus.PAUSED))
        assert "waits to be promoted" in waits.rollout.message
        waits = await world.current(deployment)
        await steer.promote(pb.PromoteDeploymentRolloutRequest(name=name, etag=waits.etag))
        with pytest.raises(Aborted, match="ETAG_MISMATCH"):
            await steer.promote(pb.PromoteDeploymentRolloutRequest(name=name, etag=waits.etag))
        await world.deployment(deployment, at(50, RolloutStatus.PAUSED))
        await steer.pause(pb.PauseDeploymentRolloutRequest(name=name))
        paused = await world.deployment(deployment, lambda current: "paused" in current.rollout.message)
        assert paused.rollout.paused
        await steer.resume(pb.ResumeDeploymentRolloutRequest(name=name))
        await world.deployment(deployment, lambda current: "waits" in current.rollout.message)
        await steer.abort(pb.AbortDeploymentRolloutRequest(name=name))
        done = await rolled(world, deployment, RolloutStatus.ABORTED)
        assert (done.rollout.stable_revision, done.revision, done.state) == (1, 2, Deployment.READY)
        await end_all(world, deployment)


def at(weight: int, state: Any) -> Callable[[Deployment], bool]:
    def is_there(current: Deployment) -> bool:
        weights = {each.revision: each.weight for each in current.rollout.targets}
        return weights.get(2) == weight and current.rollout.state == state

    return is_there


async def test_undo_goes_back_to_what_was_served_before_and_anywhere_it_is_told(world: World) -> None:
    undo = world.served.undo
    async with world.reconciling(), asyncio.TaskGroup() as tasks:
        deployment = await served(world, tasks)
        request = pb.UndoDeploymentRolloutRequest(name=deployment.name)
        with pytest.raises(FailedPrecondition, match="NO_EARLIER_REVISION"):
            await undo(request)
        with pytest.raises(NotFound):
            await undo(pb.UndoDeploymentRolloutRequest(name=deployment.name, revision=7))
        await update(world, deployment, cpu_milli=300)
        tasks.create_task(replicas(world, deployment, 2))
        await rolled(world, deployment, RolloutStatus.COMPLETED)
        assert (await undo(request)).revision == 3, "the first one's replicas have gone: its template is a new revision"
        tasks.create_task(replicas(world, deployment, 3))
        done = await rolled(world, deployment, RolloutStatus.COMPLETED)
        assert done.cpu_milli == 0
        assert (await undo(pb.UndoDeploymentRolloutRequest(name=deployment.name, revision=2))).cpu_milli == 300
        tasks.create_task(replicas(world, deployment, 4))
        await rolled(world, deployment, RolloutStatus.COMPLETED)
        await end_all(world, deployment)


async def test_undo_in_the_middle_is_the_way_back_to_what_still_serves(world: World) -> None:
    async with world.reconciling(), asyncio.TaskGroup() as tasks:
        deployment = await served(world, tasks)
        await update(world, deployment, cpu_milli=300, strategy=MANUAL)
        tasks.create_task(replicas(world, deployment, 2))
        await world.deployment(deployment, at(10, RolloutStatus.PAUSED))
        changed = await world.served.undo(pb.UndoDeploymentRolloutRequest(name=deployment.name))
        assert (changed.revision, changed.cpu_milli) == (1, 0)
        done = await rolled(world, deployment, RolloutStatus.ABORTED, 1)
        assert done.rollout.stable_revision == 1
        await end_all(world, deployment)


async def test_a_refused_revision_leaves_a_verdict_and_the_old_one_serving(world: World) -> None:
    refused = GateVerdict(outcome=GateVerdict.REFUSED, message="refused: 10.0% of the labels are the same")
    world.watch.found = Evidence(verdict=refused)
    gated = Strategy(canary=Canary(steps=[Canary.Step(weight=10)]), gate=PromotionGate())
    async with world.reconciling(), asyncio.TaskGroup() as tasks:
        deployment = await served(world, tasks)
        await update(world, deployment, cpu_milli=300, strategy=gated)
        tasks.create_task(replicas(world, deployment, 2))
        done = await rolled(world, deployment, RolloutStatus.REFUSED)
        assert list(done.rollout.verdicts) == [refused]
        assert (done.state, done.rollout.message) == (Deployment.READY, refused.message)
        await world.scheduler.gone(workload_of(deployment, "serve", 2))
        await end_all(world, deployment)


async def test_a_version_that_cannot_be_exported_fails_its_rollout_and_nothing_else(world: World) -> None:
    async with world.reconciling(), asyncio.TaskGroup() as tasks:
        deployment = await served(world, tasks)
        await update(world, deployment, model_version=await next_version(world, deployment))
        await world.scheduler.workload(workload_of(deployment, "export", 2))
        await world.scheduler.end(workload_of(deployment, "export", 2), Workload.FAILED, "EXPORT_MISMATCH: logits")
        done = await rolled(world, deployment, RolloutStatus.FAILED)
        assert "EXPORT_MISMATCH" in done.rollout.message
        assert done.state == Deployment.READY
        await end_all(world, deployment)


async def test_history_is_kept_as_long_as_it_is_asked_for(world: World) -> None:
    async with world.reconciling(), asyncio.TaskGroup() as tasks:
        deployment = await served(world, tasks)
        await update(world, deployment, revision_history_limit=2)
        for revision in range(2, 7):
            await update(world, deployment, cpu_milli=300 + revision)
            tasks.create_task(replicas(world, deployment, revision))
            await rolled(world, deployment, RolloutStatus.COMPLETED, revision)

        async def is_pruned() -> bool:
            return set(await Revisions(world.kv).all(deployment.name)) == {4, 5, 6}

        await until(is_pruned)
        await end_all(world, deployment)


async def test_what_sleeps_has_no_workload_and_wakes_with_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Size(min=2, max=2)
    monkeypatch.setattr(sizing, "wanted", lambda *_: wanted)
    async with world.reconciling(), asyncio.TaskGroup() as tasks:
        deployment = await served(world, tasks)
        wanted = Size(min=0, max=0)
        await update(world, deployment, display_name="asleep")
        await world.scheduler.gone(workload_of(deployment, "serve"))
        wanted = Size(min=1, max=1)
        await update(world, deployment, display_name="awake")
        again = f"{workload_of(deployment, 'serve')}-i1"
        await world.scheduler.workload(again)
        await world.scheduler.ready(again, 0)
        await world.deployment(deployment, lambda current: current.workload == again)
        await world.served.delete(pb.DeleteDeploymentRequest(name=deployment.name))
        await world.scheduler.workload(again, lambda current: current.state == Workload.CANCELLING)
        await world.scheduler.end(again, Workload.CANCELLED)
        await world.gone(deployment)


@pytest.mark.parametrize(
    ("fields", "where"),
    [({"model_version": "nonsense"}, "deployment.model_version"), ({"min_replicas": 9}, "deployment.min_replicas")],
)
async def test_a_change_that_cannot_be_is_refused(world: World, fields: dict[str, Any], where: str) -> None:
    deployment = await world.deployed()
    with pytest.raises(InvalidArgument) as refused:
        await update(world, deployment, **fields)
    assert list(refused.value.fields) == [where]
    with pytest.raises(NotFound):
        await update(world, deployment, model_version="projects/other/models/m/versions/1")


async def life(world: World, deployment: Deployment) -> None:
    """What happens to the workloads of a deployment that is rolled over once, whoever has made them."""
    async with asyncio.TaskGroup() as tasks:
        await world.exported(deployment)
        tasks.create_task(replicas(world, deployment, 1))
        await world.in_state(deployment, Deployment.READY)
        await update(world, deployment, cpu_milli=300)
        tasks.create_task(replicas(world, deployment, 2))
        await rolled(world, deployment, RolloutStatus.COMPLETED)
        await world.scheduler.gone(workload_of(deployment, "serve", 1))
        await end_all(world, deployment)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(6, 30, 3))
async def test_a_leader_killed_at_any_step_of_a_rollout_is_followed_by_one_that_goes_on(
    world: World, at: int, after: bool
) -> None:
    deployment = await world.deployed()
    living = asyncio.ensure_future(life(world, deployment))
    await world.killed_at(Steps(at, after=after), lambda: world.gone(deployment))
    async with world.reconciling("i2"):
        await living
    assert await world.scheduler.names() == []
