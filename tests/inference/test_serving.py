"""What a deployment asks of the scheduler, and what the states of its replicas mean."""

import json
from dataclasses import replace

import pytest

from chassis.resources import now
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.inference.v1.revision_pb2 import DeploymentRevision, PreparedModel
from lepton.inference.v1.rollout_pb2 import RolloutStatus
from lepton.names import DeploymentName, WorkloadName
from lepton.scheduler.v1.program_pb2 import ServedModel
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference import serving
from services.inference.compress.export_onnx import ARTIFACT, ExportSpec
from services.inference.rollout.seen import look
from services.inference.serving import (
    NEXT,
    SERVING,
    endpoints,
    export_name,
    export_request,
    exported,
    has_size,
    model_name,
    observe,
    replica_group,
    serving_name,
    serving_request,
)
from services.inference.sizing import Size

STATES = [value for value in Deployment.State.values() if value != Deployment.STATE_UNSPECIFIED]
WORKLOAD_STATES = [value for value in Workload.State.values() if value != Workload.STATE_UNSPECIFIED]
ROUTED = frozenset({"127.0.0.1:9000", "127.0.0.1:9001"})
PACKAGE, GOLDEN = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def deployment(deployment_id: str = "digits", **fields: object) -> Deployment:
    given = {"uid": "01234567-89ab", "replicas": 2, "model_name": "acme.digits", "state": Deployment.STARTING}
    return Deployment(name=f"projects/acme/deployments/{deployment_id}", **{**given, **fields})  # type: ignore[arg-type]


def revision(of: Deployment | None = None, number: int = 1, **fields: object) -> DeploymentRevision:
    name = f"{(of or deployment()).name}/revisions/{number}"
    model = ServedModel(name="acme.digits", repository=PACKAGE, golden=GOLDEN)
    prepared = PreparedModel(name=model.name, repository=PACKAGE, served=model.SerializeToString())
    return DeploymentRevision(name=name, models=[prepared], **fields)  # type: ignore[arg-type]


def replica(index: int, state: Slice.State.ValueType = Slice.READY) -> Slice:
    return Slice(index=index, node="n", state=state, endpoints={"grpc": f"127.0.0.1:{9000 + index}"})


def shown_to(current: Deployment, workload: Workload | None, ready: tuple[int, ...], **fields: object) -> None:
    """Lets a deployment see its one revision."""
    target = RolloutStatus.Target(revision=1, weight=100)
    routed = {f"127.0.0.1:{9000 + at}" for at in ready}
    observe(current, [look(target, revision(**fields), workload, routed)], Size(min=2, max=2), now())  # type: ignore[arg-type]


def seen(current: Deployment, *slices: Slice, routed: tuple[int, ...] = (0, 1, 2)) -> Deployment.State.ValueType:
    shown_to(current, Workload(state=Workload.RUNNING, slices=slices), routed)
    return current.state


def test_every_state_has_its_next_ones() -> None:
    assert sorted(NEXT) == sorted(STATES)
    assert all(state not in following for state, following in NEXT.items())
    assert {state for following in NEXT.values() for state in following} == set(STATES) - {Deployment.PREPARING}
    assert all(NEXT[state] >= {Deployment.FAILED, Deployment.DELETING} for state in SERVING)


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("shown", WORKLOAD_STATES)
@pytest.mark.parametrize("ready", [0, 1, 2])
def test_a_deployment_only_goes_where_it_may(
    before: Deployment.State.ValueType, shown: Workload.State.ValueType, ready: int
) -> None:
    current = deployment(state=before, message="as it was")
    workload = Workload(state=shown, slices=[replica(at) for at in range(ready)])
    shown_to(current, workload, tuple(range(ready)))
    passed = NEXT[before] | (NEXT[Deployment.STARTING] if before == Deployment.PREPARING else frozenset())
    assert current.state == before or current.state in passed
    if before not in SERVING | {Deployment.PREPARING}:
        assert (current.state, current.message) == (before, "as it was")


def test_it_is_ready_when_every_replica_gets_requests() -> None:
    current = deployment()
    assert seen(current, replica(0, Slice.RUNNING)) == Deployment.STARTING
    assert seen(current, replica(0), replica(1), routed=()) == Deployment.STARTING
    assert seen(current, replica(0), replica(1), routed=(0,)) == Deployment.DEGRADED
    assert not current.HasField("ready_time")
    assert seen(current, replica(0), replica(1)) == Deployment.READY
    first = current.ready_time.ToNanoseconds()
    assert seen(current, replica(0), replica(1, Slice.LOST)) == Deployment.DEGRADED
    assert [each.index for each in current.replica_states] == [0]
    assert seen(current, replica(0), replica(1)) == Deployment.READY
    assert current.ready_time.ToNanoseconds() == first


def test_only_proven_replicas_have_endpoints() -> None:
    slices = [replica(at, state) for at, state in enumerate(s for s in Slice.State.values() if s)]
    slices.append(Slice(index=99, state=Slice.READY))
    assert endpoints(Workload(slices=slices)) == (f"127.0.0.1:{9000 + [s.state for s in slices].index(Slice.READY)}",)


def test_the_export_is_given_what_it_reads() -> None:
    version = ModelVersion(name="projects/acme/models/m/versions/1", package=PACKAGE)
    request = export_request(deployment(), revision(), version, ("pools/cpu",))
    torch = request.workload.groups[0].program.torch
    assert ExportSpec.parse(torch.spec_json.encode()) == ExportSpec(project="acme", package=PACKAGE)
    assert torch.module == "services.inference.compress.export_onnx"
    assert (request.workload.kind, list(request.workload.pools)) == (Workload.BATCH, ["pools/cpu"])
    assert json.loads(torch.spec_json)["project"] == "acme"


def test_the_export_leaves_its_digest_where_it_is_looked_for() -> None:
    assert ARTIFACT == serving.ONNX
    done = Workload(state=Workload.SUCCEEDED, slices=[Slice(outputs={ARTIFACT: PACKAGE})])
    assert exported(done) == PACKAGE
    assert exported(Workload(state=Workload.RUNNING, slices=done.slices)) == ""
    assert exported(Workload(state=Workload.SUCCEEDED)) == ""


def test_replicas_serve_the_repository_and_are_proved_with_the_golden_samples() -> None:
    request = serving_request(deployment(), revision(), Size(min=2, max=2))
    group = request.workload.groups[0]
    model = group.program.triton.models[0]
    assert (model.name, model.repository, model.golden) == ("acme.digits", PACKAGE, GOLDEN)
    assert (group.min_count, group.max_count, request.workload.kind) == (2, 2, Workload.SERVING)


@pytest.mark.parametrize("deployment_id", ["a", "a" * 63, "a" * 45 + "-" + "b" * 17])
def test_every_deployment_id_gives_names_that_are_ones(deployment_id: str) -> None:
    current = deployment(deployment_id)
    names = {
        of(current, revision(current, number, incarnation=incarnation))
        for of in (export_name, serving_name)
        for number in (1, 2, 99_999_998)
        for incarnation in (0, 9999)
    }
    assert all(WorkloadName.parse(str(name)) == name for name in names)
    assert len(names) == 9  # what was exported need not be again after it slept
    assert model_name(DeploymentName.parse(current.name)) == f"acme.{deployment_id}"


def test_a_repeat_asks_for_the_same_until_it_slept() -> None:
    size = Size(min=2, max=2)
    before = serving_request(deployment(), revision(), size)
    assert before == serving_request(deployment(state=Deployment.READY), revision(), size)
    again = serving_request(deployment(), revision(incarnation=1), size)
    assert (again.request_id, again.workload_id) != (before.request_id, before.workload_id)


def test_replicas_may_be_trimmed_to_their_floor() -> None:
    elastic = deployment(queue="queues/prod")
    group = replica_group(revision(), Size(min=1, max=2))
    assert (group.min_count, group.max_count) == (1, 2)
    assert has_size(group, Size(min=1, max=2))
    assert not has_size(group, Size(min=2, max=2))
    assert not has_size(replica_group(revision(), Size(min=2, max=2)), Size(min=1, max=2))
    assert serving_request(elastic, revision(), Size(min=1, max=2)).workload.queue == "queues/prod"
    assert export_request(elastic, revision(), ModelVersion(package=PACKAGE), ()).workload.queue == "queues/prod"


def test_a_revision_that_failed_fails_the_deployment_only_where_it_is_the_stable_one() -> None:
    good = look(
        RolloutStatus.Target(revision=1, weight=100), revision(), Workload(slices=[replica(0), replica(1)]), ROUTED
    )
    bad = look(
        RolloutStatus.Target(revision=2), revision(state=DeploymentRevision.FAILED, message="no file"), None, ROUTED
    )
    current = deployment()
    observe(current, [good, bad], Size(min=2, max=2), now())
    assert (current.state, current.ready_replicas) == (Deployment.READY, 2)
    current = deployment(state=Deployment.PREPARING)
    observe(current, [replace(bad, is_prepared=False)], Size(min=2, max=2), now())
    assert (current.state, current.message) == (Deployment.FAILED, "no file")


def test_replicas_that_only_answer_the_header_do_not_make_it_ready() -> None:
    workload = Workload(slices=[replica(0), replica(1)])
    stable = look(RolloutStatus.Target(revision=1, weight=100), revision(), Workload(slices=[replica(0)]), ROUTED)
    preview = look(RolloutStatus.Target(revision=2, weight=0), revision(number=2), workload, ROUTED)
    current = deployment()
    observe(current, [stable, preview], Size(min=2, max=2), now())
    assert (current.state, current.ready_replicas) == (Deployment.DEGRADED, 1)
    assert [(each.revision, each.is_ready) for each in current.replica_states] == [(1, True), (2, True), (2, True)]
