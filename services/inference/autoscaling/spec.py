"""What a deployment wishes of its autoscaling, with every default filled in; and what of it cannot be."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from lepton.errors import InvalidArgument
from lepton.inference.v1.autoscaling_pb2 import Autoscaling

DEFAULT_IN_FLIGHT: Final = 4.0
DEFAULT_HELD_REQUESTS: Final = 100
DEFAULT_HELD_BYTES: Final = 64 << 20
_PANIC_SHARE: Final = 0.1  # of the look-back, as in Knative's autoscaler


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The wish as values: durations in seconds, a target of 0 = none."""

    min_replicas: int
    max_replicas: int
    in_flight: float = 0.0
    queue_delay_s: float = 0.0
    requests_per_s: float = 0.0
    utilization: float = 0.0
    look_back_s: float = 30.0
    panic_window_s: float = 3.0
    up_stabilization_s: float = 0.0
    down_stabilization_s: float = 300.0
    scale_to_zero_delay_s: float = 600.0
    cold_start_patience_s: float = 120.0
    held_requests: int = DEFAULT_HELD_REQUESTS
    held_bytes: int = DEFAULT_HELD_BYTES
    forecast: bool = False

    @property
    def longest_s(self) -> float:
        """For how long samples and proposals are of use."""
        return max(self.look_back_s, self.panic_window_s, self.up_stabilization_s, self.down_stabilization_s)


def spec_of(wish: Autoscaling) -> Spec:
    """The wish with its defaults."""
    targets = wish.targets
    queue_delay_s = targets.queue_delay.ToTimedelta().total_seconds()
    has_target = targets.in_flight or queue_delay_s or targets.requests_per_second or targets.utilization
    look_back_s = _seconds(wish, "look_back", 30.0)
    return Spec(
        min_replicas=wish.min_replicas,
        max_replicas=wish.max_replicas,
        in_flight=targets.in_flight if has_target else DEFAULT_IN_FLIGHT,
        queue_delay_s=queue_delay_s,
        requests_per_s=targets.requests_per_second,
        utilization=targets.utilization,
        look_back_s=look_back_s,
        panic_window_s=_seconds(wish, "panic_window", _PANIC_SHARE * look_back_s),
        up_stabilization_s=_seconds(wish, "up_stabilization", 0.0),
        down_stabilization_s=_seconds(wish, "down_stabilization", 300.0),
        scale_to_zero_delay_s=_seconds(wish, "scale_to_zero_delay", 600.0),
        cold_start_patience_s=_seconds(wish, "cold_start_patience", 120.0),
        held_requests=wish.held_requests or DEFAULT_HELD_REQUESTS,
        held_bytes=wish.held_bytes or DEFAULT_HELD_BYTES,
        forecast=wish.forecast,
    )


def check(wish: Autoscaling, path: str = "deployment.autoscaling") -> None:
    """Raises InvalidArgument that names every field which contradicts another."""
    problems = dict(_contradictions(wish, path))
    if problems:
        raise InvalidArgument("INVALID_FIELD", fields=problems)


def _contradictions(wish: Autoscaling, path: str) -> Iterator[tuple[str, str]]:
    spec = spec_of(wish)
    if wish.min_replicas > wish.max_replicas:
        yield f"{path}.min_replicas", f"must be at most max_replicas, which is {wish.max_replicas}"
    if wish.targets.HasField("queue_delay") and not spec.queue_delay_s:
        yield f"{path}.targets.queue_delay", "must be more than 0; leave it out for no such target"
    if spec.panic_window_s > spec.look_back_s:
        yield f"{path}.panic_window", f"must be at most look_back, which is {spec.look_back_s:g} s"
    if wish.HasField("scale_to_zero_delay") and wish.min_replicas:
        yield f"{path}.scale_to_zero_delay", "is for deployments that may sleep: set min_replicas to 0, or leave it out"


def _seconds(wish: Autoscaling, field: Any, default: float) -> float:
    if not wish.HasField(field):
        return default
    seconds: float = getattr(wish, field).ToTimedelta().total_seconds()
    return seconds
