"""What a deployment may ask of its servers, and what is refused with the field's name."""

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lepton.errors import InvalidArgument
from lepton.inference.v1.serving_options_pb2 import QueuePolicy, RateLimiter, ServingOptions, VersionPolicy
from lepton.models import Signature, Tensor
from services.inference.triton_repository import render_config
from services.inference.triton_repository.options import Engine
from services.inference.triton_repository.options import ServingOptions as Options
from tests.harness.serving import SIGNATURE


def config(options: Options, signature: Signature = SIGNATURE) -> model_config_pb2.ModelConfig:
    return text_format.Parse(render_config("demo.digits", signature, options), model_config_pb2.ModelConfig())


def test_a_deployment_that_asks_for_nothing_gets_the_defaults() -> None:
    assert Options.of(ServingOptions()) == Options()
    assert Options().engine is Engine.AUTO


def test_nought_and_not_set_are_told_apart_where_nought_means_something() -> None:
    options = Options.of(ServingOptions(max_queue_delay_us=0, warmup=False))
    assert (options.max_queue_delay_us, options.warmup) == (0, False)
    assert config(options).dynamic_batching.max_queue_delay_microseconds == 0


def test_the_queue_is_what_was_asked_for() -> None:
    queue = QueuePolicy(priority_levels=3, max_queue_size=7, timeout_us=9000, allow_timeout_override=True)
    made = config(Options.of(ServingOptions(max_batch_size=16, preferred_batch_sizes=[4, 16], queue=queue)))
    batching = made.dynamic_batching
    assert list(batching.preferred_batch_size) == [4, 16]
    assert (batching.priority_levels, batching.default_priority_level) == (3, 2), "the middle one"
    assert sorted(batching.priority_queue_policy) == [1, 2, 3]
    for policy in (*batching.priority_queue_policy.values(), batching.default_queue_policy):
        assert (policy.max_queue_size, policy.default_timeout_microseconds) == (7, 9000)
        assert policy.allow_timeout_override
        assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT


def test_a_rate_limiter_makes_an_instance_group_of_its_own() -> None:
    limiter = RateLimiter(resources={"R": 2}, priority=3)
    made = config(Options.of(ServingOptions(instances=2, rate_limiter=limiter)))
    (group,) = made.instance_group
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    assert [(each.name, each.count) for each in group.rate_limiter.resources] == [("R", 2)]
    assert group.rate_limiter.priority == 3


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (ServingOptions(preferred_batch_sizes=[8, 4]), "preferred_batch_sizes"),
        (ServingOptions(max_batch_size=4, preferred_batch_sizes=[8]), "preferred_batch_sizes"),
        (
            ServingOptions(queue=QueuePolicy(priority_levels=2, default_priority_level=3)),
            "queue.default_priority_level",
        ),
        (ServingOptions(engine_required=True), "engine_required"),
        (ServingOptions(shared=True, response_cache=True), "response_cache"),
        (ServingOptions(shared=True, rate_limiter=RateLimiter(resources={"R": 1})), "rate_limiter"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(asked: ServingOptions, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Options.of(asked)
    assert list(caught.value.fields) == [f"deployment.serving.{field}"]


def test_what_needs_batches_is_refused_without_them() -> None:
    fixed = Signature(
        inputs=(Tensor(name="x", datatype="FP32", shape=(4, 3)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(4,)),),
    )
    for asked in (ServingOptions(response_cache=True), ServingOptions(queue=QueuePolicy(max_queue_size=1))):
        with pytest.raises(InvalidArgument):
            config(Options.of(asked), fixed)


@pytest.mark.parametrize(
    ("policy", "own", "expected"),
    [
        (VersionPolicy(latest=3), 7, (5, 6, 7)),
        (VersionPolicy(latest=3), 2, (1, 2)),
        (VersionPolicy(specific=VersionPolicy.Versions(numbers=[2, 5])), 7, (2, 5, 7)),
    ],
)
def test_the_deployments_own_version_is_always_the_newest(
    policy: VersionPolicy, own: int, expected: tuple[int, ...]
) -> None:
    options = Options.of(ServingOptions(version_policy=policy))
    assert options.version_policy is not None
    assert options.version_policy.versions(own) == expected


def test_a_version_newer_than_the_deployments_own_is_refused() -> None:
    policy = VersionPolicy(specific=VersionPolicy.Versions(numbers=[9]))
    options = Options.of(ServingOptions(version_policy=policy))
    assert options.version_policy is not None
    with pytest.raises(InvalidArgument, match="newer"):
        options.version_policy.versions(7)
