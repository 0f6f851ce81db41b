"""How a model is run on a node: a deployment's `ServingOptions`, checked and with defaults filled in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from lepton.errors import InvalidArgument
from lepton.inference.v1 import serving_options_pb2 as pb

DEFAULT_MAX_BATCH: Final = 32
DEFAULT_QUEUE_DELAY_US: Final = 0
_FIELD: Final = "deployment.serving"


class Engine(StrEnum):
    """What runs a model."""

    AUTO = "auto"
    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    AOT_INDUCTOR = "aot_inductor"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """What happens to requests that wait for a batch; zeros mean no priorities and no limits."""

    priority_levels: int = 0
    default_priority: int = 0
    """Of a request that names none; 0 = the middle one."""
    max_size: int = 0
    timeout_us: int = 0
    allow_timeout_override: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.default_priority <= self.priority_levels:
            problem = f"must be 0 or at most priority_levels, which is {self.priority_levels}"
            raise _invalid("queue.default_priority_level", problem)
        if min(self.max_size, self.timeout_us) < 0:
            raise _invalid("queue", "sizes and times are 0 or more")

    @property
    def is_default(self) -> bool:
        """Whether it asks for nothing."""
        return self == QueuePolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimiter:
    """The resources that a run takes of its server, and how its turns weigh against other models'."""

    resources: Mapping[str, int]
    priority: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPolicy:
    """Which versions of the model are served side by side: the newest `latest`, or the `numbers`."""

    latest: int = 0
    numbers: tuple[int, ...] = ()

    def versions(self, own: int) -> tuple[int, ...]:
        """The numbers of the versions to serve, rising; `own`, the deployment's, is the last."""
        asked = range(max(1, own - self.latest + 1), own) if self.latest else self.numbers
        if later := [number for number in asked if number > own]:
            problem = f"{later[0]} is newer than the deployment's own version {own}, which answers by default"
            raise _invalid("version_policy", problem)
        return tuple(sorted({*asked, own}))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How a model is run on a node; none of it changes what it answers."""

    max_batch: int = DEFAULT_MAX_BATCH
    max_queue_delay_us: int = DEFAULT_QUEUE_DELAY_US
    instances: int = 1
    threads: int = 1
    preferred_batches: tuple[int, ...] = ()
    engine: Engine = Engine.AUTO
    engine_required: bool = False
    response_cache: bool = False
    warmup: bool = True
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    rate_limiter: RateLimiter | None = None
    version_policy: VersionPolicy | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        if min(self.max_batch, self.instances, self.threads) < 1 or self.max_queue_delay_us < 0:
            raise _invalid("", "sizes are 1 or more, delays 0 or more")
        if list(self.preferred_batches) != sorted(set(self.preferred_batches)):
            raise _invalid("preferred_batch_sizes", "must rise")
        if (
            self.preferred_batches
            and not 1 <= self.preferred_batches[0] <= self.preferred_batches[-1] <= self.max_batch
        ):
            raise _invalid("preferred_batch_sizes", f"must lie between 1 and max_batch_size, which is {self.max_batch}")
        if self.engine_required and self.engine is Engine.AUTO:
            raise _invalid("engine_required", "needs `engine`: there is nothing to insist on")
        if self.shared and self.rate_limiter is not None:
            raise _invalid("rate_limiter", "cannot be had on a shared server: its resources are not this deployment's")
        if self.shared and self.response_cache:
            raise _invalid("response_cache", "cannot be had on a shared server, whose memory is not this deployment's")

    @classmethod
    def of(cls, message: pb.ServingOptions) -> Self:
        """The options of a deployment. Raises InvalidArgument, which names the field and says what would do."""
        limiter = message.rate_limiter if message.HasField("rate_limiter") else None
        versions = message.version_policy if message.HasField("version_policy") else None
        return cls(
            max_batch=message.max_batch_size or DEFAULT_MAX_BATCH,
            max_queue_delay_us=(
                message.max_queue_delay_us if message.HasField("max_queue_delay_us") else DEFAULT_QUEUE_DELAY_US
            ),
            instances=message.instances or 1,
            threads=message.threads or 1,
            preferred_batches=tuple(message.preferred_batch_sizes),
            engine=_ENGINES[message.engine],
            engine_required=message.engine_required,
            response_cache=message.response_cache,
            warmup=message.warmup if message.HasField("warmup") else True,
            queue=QueuePolicy(
                priority_levels=message.queue.priority_levels,
                default_priority=message.queue.default_priority_level,
                max_size=message.queue.max_queue_size,
                timeout_us=message.queue.timeout_us,
                allow_timeout_override=message.queue.allow_timeout_override,
            ),
            rate_limiter=limiter and RateLimiter(resources=dict(limiter.resources), priority=limiter.priority or 1),
            version_policy=versions
            and VersionPolicy(latest=versions.latest, numbers=tuple(sorted(versions.specific.numbers))),
            shared=message.shared,
        )


_ENGINES: Final = {
    pb.ServingOptions.ENGINE_UNSPECIFIED: Engine.AUTO,
    pb.ServingOptions.ONNXRUNTIME: Engine.ONNXRUNTIME,
    pb.ServingOptions.TENSORRT: Engine.TENSORRT,
    pb.ServingOptions.AOT_INDUCTOR: Engine.AOT_INDUCTOR,
}


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={f"{_FIELD}.{name}" if name else _FIELD: problem})
