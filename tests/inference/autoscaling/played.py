"""A load played against the decision, with replicas that take a while to start: what there was at every moment."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.inference.autoscaling.decision import Memory, decide
from services.inference.autoscaling.proposals import Proposal
from services.inference.autoscaling.sample import Sample
from services.inference.autoscaling.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What there was at one decision."""

    at: float
    load: float
    desired: int
    ready: int
    why: str


def play(
    spec: Spec,
    load: Callable[[float], float],
    *,
    until_s: float,
    every_s: float = 2.0,
    start_s: float = 20.0,
    begins: int = 1,
    floor: Callable[[float], Proposal] = lambda _: Proposal(count=0, why=""),
    is_complete: Callable[[float], bool] = lambda _: True,
    delay_s: Callable[[float, int], float] | None = None,
) -> list[Moment]:
    """`load`: calls in flight by time, each 10 requests/s; `start_s`: what a replica needs to be ready."""
    desired, memory = begins, Memory.begin(0.0)
    ready_at = [0.0] * begins
    moments = []
    at = 0.0
    while at <= until_s:
        ready = sum(each <= at for each in ready_at)
        now = load(at) if is_complete(at) else 0.0
        sample = Sample(
            at=at,
            in_flight=now,
            requests_per_s=10 * now,
            held=math.ceil(now) if not ready else 0,
            ready=ready,
            queue_delay_s=delay_s(now, ready) if delay_s and ready else None,
            busy=min(now, ready) if ready else None,
            is_complete=is_complete(at),
        )
        decision = decide(spec, desired, memory, sample, floor=floor(at))
        moments.append(Moment(at=at, load=load(at), desired=decision.desired, ready=ready, why=decision.why))
        desired, memory = decision.desired, decision.memory
        ready_at = sorted(ready_at)[:desired] + [at + start_s] * (desired - len(ready_at))
        at += every_s
    return moments


def changes(moments: Sequence[Moment]) -> list[int]:
    """The numbers of replicas one after the other."""
    found: list[int] = []
    for each in moments:
        if each.desired not in found[-1:]:
            found.append(each.desired)
    return found
