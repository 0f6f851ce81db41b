"""Whether a slice fits: its demand in the form that the engine compares, and the nodes that may take it at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.scheduler.snapshot import Demand, Effect, Taint, Toleration

WHOLE: Final = 1000  # thousandths of a device
RESOURCES: Final = ("cpu_milli", "memory_bytes", "storage_bytes", "network_mbps")
_FORBIDDING: Final = frozenset({Effect.NO_SCHEDULE, Effect.NO_EXECUTE})


class Profile:
    """A demand, taken apart once."""

    __slots__ = ("amounts", "code", "demand", "devices", "each", "key", "milli", "models")

    def __init__(self, demand: Demand, key: int) -> None:
        self.demand = demand
        self.key = key  # short, for caches
        self.code = key << 12  # the same with room below for what becomes of a device
        self.amounts = (demand.cpu_milli, demand.memory_bytes, demand.storage_bytes, demand.network_mbps)
        self.models = demand.device_models
        is_share = 0 < demand.device_milli < WHOLE
        self.devices = 1 if is_share else demand.device_milli // WHOLE
        self.each = demand.device_milli if is_share else WHOLE  # of each device
        self.milli = self.devices * self.each

    def suits(self, model: str) -> bool:
        """Whether a device of this model will do."""
        return not self.models or model in self.models


@dataclass(frozen=True, slots=True)
class Build:
    """What never changes about a node; nodes of one build are told apart by what is free on them alone."""

    pool: str
    models: tuple[str, ...]  # sorted
    taints: tuple[Taint, ...]
    labels: tuple[tuple[str, str], ...]  # those that are ever selected by, sorted
    is_schedulable: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """Which builds may be used at all."""

    pool: str
    selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()

    def rank(self, build: Build) -> int | None:
        """0: welcome; 1: a last resort; None: never."""
        if not build.is_schedulable or build.pool != self.pool:
            return None
        if self.selector and not set(self.selector) <= set(build.labels):
            return None
        standing = [taint for taint in build.taints if not is_tolerated(taint, self.tolerations)]
        if any(taint.effect in _FORBIDDING for taint in standing):
            return None
        return 1 if standing else 0


def is_tolerated(taint: Taint, tolerations: Sequence[Toleration]) -> bool:
    """Whether one of the tolerations is of this taint."""
    return any(
        (not each.key or each.key == taint.key) and (not each.value or each.value == taint.value)
        for each in tolerations
    )


def count(free: Sequence[int], models: Sequence[str], amounts: Sequence[int], profile: Profile) -> int:
    """How many slices fit at once where so much is free (devices in the order of their models)."""
    most = -1
    for left, each in zip(amounts, profile.amounts, strict=True):
        if each and (most < 0 or left // each < most):
            most = max(0, left // each)
    if profile.devices and most:
        if profile.models:
            free = [left for left, model in zip(free, models, strict=True) if model in profile.models]
        if profile.each < WHOLE:
            fitting = sum(left // profile.each for left in free if left > 0)
        else:
            fitting = sum(left == WHOLE for left in free) // profile.devices
        most = fitting if most < 0 else min(most, fitting)
    return UNBOUNDED if most < 0 else most


UNBOUNDED: Final = 1 << 30  # a slice that takes nothing fits without end
