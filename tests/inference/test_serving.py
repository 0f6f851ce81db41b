"""What a deployment asks of the scheduler, and what the states of its replicas mean."""

import json

import pytest

from chassis.resources import now
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.names import DeploymentName, WorkloadName
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference import serving
from services.inference.compress.export_onnx import ARTIFACT, ExportSpec
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

STATES = [value for value in Deployment.State.values() if value != Deployment.STATE_UNSPECIFIED]
WORKLOAD_STATES = [value for value in Workload.State.values() if value != Workload.STATE_UNSPECIFIED]
PACKAGE, GOLDEN = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def deployment(deployment_id: str = "digits", **fields: object) -> Deployment:
    given = {"uid": "01234567-89ab", "replicas": 2, "model_name": "acme.digits", "state": Deployment.STARTING}
    return Deployment(name=f"projects/acme/deployments/{deployment_id}", **{**given, **fields})  # type: ignore[arg-type]


def replica(index: int, state: Slice.State.ValueType = Slice.READY) -> Slice:
    return Slice(index=index, node="n", state=state, endpoints={"grpc": f"127.0.0.1:{9000 + index}"})


def seen(current: Deployment, *slices: Slice, routed: tuple[int, ...] = (0, 1, 2)) -> Deployment.State.ValueType:
    workload = Workload(state=Workload.RUNNING, slices=slices)
    observe(current, workload, {f"127.0.0.1:{9000 + at}" for at in routed}, now())
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
    observe(current, workload, {f"127.0.0.1:{9000 + at}" for at in range(ready)}, now())
    assert current.state == before or current.state in NEXT[before]
    if before not in SERVING:
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
    request = export_request(deployment(), version, ("pools/cpu",))
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
    request = serving_request(deployment(repository=PACKAGE), GOLDEN)
    group = request.workload.groups[0]
    model = group.program.triton.models[0]
    assert (model.name, model.repository, model.golden) == ("acme.digits", PACKAGE, GOLDEN)
    assert (group.min_count, group.max_count, request.workload.kind) == (2, 2, Workload.SERVING)


@pytest.mark.parametrize("deployment_id", ["a", "a" * 63, "a" * 45 + "-" + "b" * 17])
def test_every_deployment_id_gives_names_that_are_ones(deployment_id: str) -> None:
    current = deployment(deployment_id)
    for name in (export_name(current), serving_name(current)):
        assert WorkloadName.parse(str(name)) == name
    assert export_name(current) != serving_name(current)
    assert model_name(DeploymentName.parse(current.name)) == f"acme.{deployment_id}"


def test_a_repeat_asks_for_the_same() -> None:
    assert serving_request(deployment(), GOLDEN) == serving_request(deployment(state=Deployment.READY), GOLDEN)


def test_replicas_may_be_trimmed_to_their_floor() -> None:
    fixed, elastic = deployment(), deployment(min_replicas=1, queue="queues/prod")
    group = replica_group(elastic, GOLDEN)
    assert (group.min_count, group.max_count) == (1, 2)
    assert has_size(group, elastic)
    assert not has_size(group, fixed)
    assert not has_size(replica_group(fixed, GOLDEN), elastic)
    assert serving_request(elastic, GOLDEN).workload.queue == "queues/prod"
    assert export_request(elastic, ModelVersion(package=PACKAGE), ()).workload.queue == "queues/prod"
