"""What a deployment that scales asks of the scheduler, and where its calls go while it has no replica."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.errors import InvalidArgument
from lepton.inference.v1.autoscaling_pb2 import Autoscaling, Scaling
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.revision_pb2 import DeploymentRevision, PreparedModel
from lepton.inference.v1.rollout_pb2 import RolloutStatus
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference import sizing
from services.inference.envoy import Endpoint
from services.inference.gateway import routes
from services.inference.serving import serving_name
from services.inference.sizing import Size, wanted
from tests.inference.conftest import World, deployment_request

HOLDER = Endpoint(host="127.0.0.1", port=4000)
REPLICA = Endpoint(host="127.0.0.1", port=9000)
NOW = 1_000_000


def deployment(
    least: int = 0, most: int = 4, desired: int | None = None, changed_s: int = 0, **fields: Any
) -> Deployment:
    target = RolloutStatus.Target(revision=1, weight=100)
    found = Deployment(
        name="projects/acme/deployments/digits",
        uid="01234567-89",
        model_name="acme.digits",
        state=Deployment.READY,
        replicas=2,
        revision=1,
        rollout=RolloutStatus(stable_revision=1, targets=[target]),
        autoscaling=Autoscaling(min_replicas=least, max_replicas=most),
        **fields,
    )
    if desired is not None:
        found.scaling.CopyFrom(Scaling(desired=desired, change_time=Timestamp(seconds=changed_s)))
    return found


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (deployment(), Size(min=1, max=2)),
        (deployment(most=1), Size(min=1, max=1)),
        (deployment(least=3), Size(min=3, max=3)),
        (deployment(desired=4), Size(min=1, max=4)),
        (deployment(least=2, desired=4), Size(min=2, max=4)),
        (deployment(desired=9), Size(min=1, max=4)),
        (deployment(desired=0), Size(min=0, max=0)),
        (deployment(least=1, desired=0), Size(min=1, max=1)),
    ],
    ids=["at first", "no more than the most", "no fewer than the least", "as asked", "the floor is the least",
         "a most that was lowered", "asleep", "a least that was raised"],
)  # fmt: skip
def test_the_size(given: Deployment, size: Size) -> None:
    assert wanted(given, DeploymentRevision(), Timestamp(seconds=NOW)) == size


def test_without_autoscaling_replicas_are_what_is_wished() -> None:
    given = deployment(desired=4)
    given.ClearField("autoscaling")
    assert wanted(given, DeploymentRevision(), Timestamp(seconds=NOW)) == Size(min=2, max=2)
    assert not sizing.may_sleep(given)


def test_the_last_replica_stays_until_no_gateway_sends_it_calls() -> None:
    asleep = deployment(desired=0, changed_s=NOW)
    assert sizing.sleeps(asleep)
    just = Timestamp(seconds=NOW + int(sizing.LETTING_GO_S) - 1)
    assert wanted(asleep, DeploymentRevision(), just) == Size(min=1, max=1)
    assert wanted(asleep, DeploymentRevision(), Timestamp(seconds=NOW + 60)) == Size(min=0, max=0)


def routed(given: Deployment, *, has_replica: bool) -> Any:
    revision = DeploymentRevision(name=f"{given.name}/revisions/1", models=[PreparedModel(name="acme.digits")])
    name = str(serving_name(given, revision))
    piece = Slice(state=Slice.READY, endpoints={"grpc": "127.0.0.1:9000"})
    workloads = {name: Workload(name=name, kind=Workload.SERVING, slices=[piece])} if has_replica else {}
    (route,) = routes({given.name: given}, {revision.name: revision}, workloads, holder=HOLDER).routes
    return route


def test_calls_of_a_deployment_that_sleeps_are_held_though_its_replica_is_still_there() -> None:
    for has_replica in (True, False):
        route = routed(deployment(desired=0), has_replica=has_replica)
        assert (route.holder, route.targets[0].endpoints) == (HOLDER, ())


def test_calls_of_one_that_is_awake_go_to_its_replicas_with_the_holder_behind_them() -> None:
    route = routed(deployment(desired=1), has_replica=True)
    assert (route.holder, route.targets[0].endpoints) == (HOLDER, (REPLICA,))


def test_calls_of_one_that_never_sleeps_are_not_held() -> None:
    assert routed(deployment(least=1), has_replica=True).holder is None


async def test_a_contradictory_wish_is_refused_and_names_the_field(world: World) -> None:
    version = await world.version(await world.model())
    for field, wrong in {
        "deployment.autoscaling.min_replicas": {"autoscaling": Autoscaling(min_replicas=5, max_replicas=4)},
        "deployment.min_replicas": {"autoscaling": Autoscaling(max_replicas=4), "min_replicas": 1},
        "deployment.autoscaling.panic_window": {
            "autoscaling": Autoscaling(max_replicas=4, panic_window=Duration(seconds=99))
        },
    }.items():
        with pytest.raises(InvalidArgument) as refused:
            await world.served.create(deployment_request(version.name, **wrong))
        assert list(refused.value.fields) == [field]
