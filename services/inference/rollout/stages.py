"""The stages that a strategy leads a new revision through: calls and replicas of each side, and what ends it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lepton.inference.v1.rollout_pb2 import Canary, Strategy

PROGRESS_DEADLINE_S: Final = 600
ALL: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage; it begins when the new revision has its replicas, and only then calls are sent as it says."""

    weight: int
    """Of 100 calls, how many the new revision gets."""
    replicas: int
    """How many replicas the new revision has."""
    kept: int = 0
    """How many replicas the old one keeps; 0 = as many as the deployment asks for."""
    hold_s: float = 0.0
    manual: bool = False
    gate: bool = False


def stages(strategy: Strategy, replicas: int) -> tuple[Stage, ...]:
    """The stages of a strategy for so many replicas; the last one sends all calls to the new revision."""
    if replicas < 1:
        return (Stage(weight=ALL, replicas=0),)
    kind = strategy.WhichOneof("kind")
    if kind == "canary":
        return tuple(_canary(strategy, replicas))
    if kind == "blue_green":
        first = Stage(weight=0, replicas=replicas, manual=strategy.blue_green.manual, gate=strategy.HasField("gate"))
        return (first, Stage(weight=ALL, replicas=replicas))
    return tuple(_rolling(strategy, replicas))


def progress_deadline_s(strategy: Strategy) -> float:
    """How long a stage may wait for its replicas."""
    return float(strategy.progress_deadline_s or PROGRESS_DEADLINE_S)


def drain_s(strategy: Strategy, least_s: float) -> float:
    """How long replicas that get no more calls are kept."""
    if strategy.WhichOneof("kind") != "blue_green":
        return least_s
    return max(least_s, strategy.blue_green.keep_old.ToTimedelta().total_seconds())


def _canary(strategy: Strategy, replicas: int) -> Iterator[Stage]:
    steps = strategy.canary.steps
    if strategy.HasField("gate"):
        yield Stage(weight=0, replicas=_share(steps[0], replicas), gate=True)
    for step in steps:
        yield Stage(
            weight=step.weight,
            replicas=_share(step, replicas),
            hold_s=step.hold.ToTimedelta().total_seconds(),
            manual=step.manual,
            gate=step.gate,
        )
    yield Stage(weight=ALL, replicas=replicas)


def _share(step: Canary.Step, replicas: int) -> int:
    return max(1, math.ceil(replicas * step.weight / ALL))


def _rolling(strategy: Strategy, replicas: int) -> Iterator[Stage]:
    surge = strategy.rolling.max_surge or max(1, math.ceil(replicas / 4))
    kept = 0
    if strategy.HasField("gate"):
        yield Stage(weight=0, replicas=min(surge, replicas), gate=True)
    for new in (*range(surge, replicas, surge), replicas):
        kept = (replicas - new) or kept
        yield Stage(weight=round(ALL * new / replicas), replicas=new, kept=kept)
