"""A model's Triton configuration, as far as it is the same for every engine: tensors, batches, queue, cache, limits."""

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lepton.errors import InvalidArgument
from lepton.golden import DATATYPES, TEXT
from lepton.models import Signature, Tensor
from services.inference.triton_repository.options import QueuePolicy, ServingOptions

ModelConfig = Any
"""`inference.ModelConfig`; tritonclient ships no types."""
Kind: Final = model_config_pb2.ModelInstanceGroup.Kind
OWN_VERSION: Final = 1
"""The version in the repository where a deployment serves its own alone."""
PRIORITY_TIMEOUT: Final = model_config_pb2.ModelQueuePolicy.REJECT


def configuration(
    model: str, signature: Signature, options: ServingOptions, versions: Sequence[int] = (OWN_VERSION,)
) -> ModelConfig:
    """What every engine's configuration starts from; with the first dimension of every tensor free, Triton batches.

    Raises InvalidArgument for a signature that cannot be served.
    """
    if not signature.inputs or not signature.outputs:
        raise _invalid("signature", "needs an input and an output")
    batched = is_batched(signature)
    config = model_config_pb2.ModelConfig(name=model, max_batch_size=options.max_batch if batched else 0)
    config.version_policy.specific.versions.extend(versions)
    for target, described in ((config.input, signature.inputs), (config.output, signature.outputs)):
        for tensor in described:
            _add(target, tensor, tensor.shape[1:] if batched else tensor.shape)
    if batched and options.max_batch > 1:
        _batch(config.dynamic_batching, options)
    elif not options.queue.is_default:
        raise _invalid("deployment.serving.queue", "needs batches: a free first dimension and a max_batch_size above 1")
    if options.response_cache:
        if (
            not batched
        ):  # a server is proved alive by golden samples in ever other orders: an answer kept proves nothing
            raise _invalid("deployment.serving.response_cache", "needs batches: a free first dimension everywhere")
        config.response_cache.enable = True
    return config


def is_batched(signature: Signature) -> bool:
    """Whether the first dimension of every tensor is the batch."""
    return all(tensor.shape[:1] == (-1,) for tensor in (*signature.inputs, *signature.outputs))


def place(config: ModelConfig, options: ServingOptions, kind: int, profiles: Sequence[str] = ()) -> None:
    """The copies of the model and what they run on. Alone and unlimited on CPUs it is left to Triton's own default."""
    limiter = options.rate_limiter
    if kind == Kind.Value("KIND_CPU") and options.instances == 1 and limiter is None:
        return
    group = config.instance_group.add(count=options.instances, kind=kind, profile=profiles)
    if limiter is not None:
        group.rate_limiter.priority = limiter.priority
        for name, count in sorted(limiter.resources.items()):
            group.rate_limiter.resources.add(name=name, count=count)


def as_text(config: ModelConfig) -> bytes:
    """The configuration as config.pbtxt holds it."""
    text: str = text_format.MessageToString(config)
    return text.encode()


def _batch(batching: Any, options: ServingOptions) -> None:
    batching.max_queue_delay_microseconds = options.max_queue_delay_us
    batching.preferred_batch_size.extend(options.preferred_batches)
    queue = options.queue
    if queue.priority_levels:
        batching.priority_levels = queue.priority_levels
        batching.default_priority_level = queue.default_priority or (queue.priority_levels + 1) // 2
        for level in range(1, queue.priority_levels + 1):
            _limit(batching.priority_queue_policy[level], queue)
    if not queue.is_default:
        _limit(batching.default_queue_policy, queue)


def _limit(policy: Any, queue: QueuePolicy) -> None:
    policy.timeout_action = PRIORITY_TIMEOUT
    policy.default_timeout_microseconds = queue.timeout_us
    policy.allow_timeout_override = queue.allow_timeout_override
    policy.max_queue_size = queue.max_size


def _add(target: Any, tensor: Tensor, dims: Sequence[int]) -> None:
    if tensor.datatype not in {*DATATYPES, TEXT}:
        raise _invalid(f"signature.{tensor.name}", f"has the unknown datatype {tensor.datatype}")
    added = target.add(
        name=tensor.name,
        data_type=model_config_pb2.DataType.Value(
            "TYPE_STRING" if tensor.datatype == TEXT else f"TYPE_{tensor.datatype}"
        ),
        dims=list(dims) or [1],
    )
    if not dims:  # one scalar per row: Triton wants a dimension, the model has none
        added.reshape.SetInParent()


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={field: problem})
