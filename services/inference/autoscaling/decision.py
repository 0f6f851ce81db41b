"""How many replicas there should be now: a pure function of the wish, the load, and what was decided before.

The algorithm joins three that are in use. Of Knative's autoscaler (serving/pkg/autoscaler/scaling): the mean over a
stable window, and a panic window in which a burst counts alone and nothing is taken away. Of Kubernetes' horizontal
autoscaler: the largest of several proposals, and stabilisation (the least of the window's proposals adds, the largest
takes away). Of Ray Serve: a delay of its own for the last replica. From zero nothing is waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.inference.autoscaling.proposals import Proposal, TooFew, is_too_slow, proposals
from services.inference.autoscaling.sample import Sample, mean, since
from services.inference.autoscaling.spec import Spec

PANIC_THRESHOLD: Final = 2.0
"""A burst is what asks for so many times the replicas that are ready."""
_NO_FLOOR: Final = Proposal(count=0, why="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a decision rests on beside the newest sample. A new leader begins with nothing but the present time."""

    began_at: float
    samples: tuple[Sample, ...] = ()
    asked: tuple[tuple[float, int], ...] = ()
    """What was proposed, and when; while data were missing, what there was."""
    last_call_at: float
    panic_until: float = 0.0
    """0 = no panic."""
    short_since: float | None = None
    """Since when there are fewer ready than there should be."""
    too_few: TooFew | None = None

    @classmethod
    def begin(cls, now: float) -> "Memory":
        """Nothing is known: as if it had been called this moment."""
        return cls(began_at=now, last_call_at=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many, why, and what to remember."""

    desired: int
    why: str
    memory: Memory


def decide(
    spec: Spec, desired: int, memory: Memory, sample: Sample, *, floor: Proposal = _NO_FLOOR, is_woken: bool = False
) -> Decision:
    """The number of replicas from `sample.at` on; `desired` is the number until now.

    `floor` is what a forecast asks for at the least. `is_woken`: a call has come while nothing ran.
    """
    memory = _remember(spec, desired, memory, sample, is_woken=is_woken)
    stable = since(memory.samples, sample.at - spec.look_back_s)
    wanted = max(proposals(spec, stable, desired, memory.too_few), key=lambda each: each.count)
    if floor.count > wanted.count:
        wanted = floor
    burst = max(
        proposals(spec, since(memory.samples, sample.at - spec.panic_window_s), desired, memory.too_few),
        key=lambda each: each.count,
    )
    if burst.count > desired and burst.count >= PANIC_THRESHOLD * max(1, sample.ready):
        memory = replace(memory, panic_until=sample.at + spec.look_back_s)
    is_panic = sample.at < memory.panic_until
    if is_panic and burst.count > wanted.count:
        wanted = Proposal(count=burst.count, why=f"a burst: {burst.why}")
    if desired == 0:
        return _asleep(spec, memory, sample, wanted, is_woken=is_woken)
    count, why = _bounded(spec, wanted.count), wanted.why
    if not sample.is_complete:
        count, why = max(count, desired), f"{why}; a gateway does not tell its load: nothing is taken away"
    elif count < desired and is_panic:
        count, why = desired, f"{why}; after a burst nothing is taken away"
    memory = replace(memory, asked=(*memory.asked, (sample.at, count)))
    result = _stabilized(spec, desired, memory, sample, count, is_panic=is_panic)
    if result == desired > count:
        why = f"{why}; {count} would do, if that lasts"
    if result > desired:
        result, why = _within_patience(spec, desired, result, why, memory, sample)
    if _may_sleep(spec, result, memory, sample, floor):
        return Decision(desired=0, why=f"no call for {sample.at - memory.last_call_at:.0f} s", memory=memory)
    return Decision(desired=result, why=why, memory=memory)


def _asleep(spec: Spec, memory: Memory, sample: Sample, wanted: Proposal, *, is_woken: bool) -> Decision:
    """Nothing is waited for: a call is there, or one is expected."""
    if is_woken or sample.is_called:
        words = f"{sample.held} held calls wake it" if sample.held else "a call wakes it"
        return Decision(desired=min(spec.max_replicas, max(1, wanted.count)), why=words, memory=memory)
    count = _bounded(spec, wanted.count) if wanted.count else spec.min_replicas
    return Decision(desired=count, why=wanted.why if count else "no call", memory=memory)


def _stabilized(spec: Spec, desired: int, memory: Memory, sample: Sample, counted: int, *, is_panic: bool) -> int:
    up_from = sample.at - spec.up_stabilization_s
    # A mean that still holds what fewer replicas carried says nothing about how many there are too many.
    down_from = sample.at - max(spec.down_stabilization_s, spec.look_back_s)
    up = min((count for at, count in memory.asked if at >= up_from), default=counted)
    down = max((count for at, count in memory.asked if at >= down_from), default=counted)
    if spec.up_stabilization_s and memory.began_at > up_from:
        up = min(up, desired)  # it was not watched for long enough
    if memory.began_at > down_from:
        down = max(down, desired)
    if is_panic:
        up = counted
    if desired < up:
        return up
    return down if desired > down else _bounded(spec, desired)


def _within_patience(
    spec: Spec, desired: int, result: int, why: str, memory: Memory, sample: Sample
) -> tuple[int, str]:
    """Where replicas do not become ready, more of them would not either."""
    if memory.short_since is None or sample.at - memory.short_since < spec.cold_start_patience_s:
        return result, why
    most = max(desired, 2 * sample.ready)
    if result <= most:
        return result, why
    waited_s = sample.at - memory.short_since
    missing = f"{desired - sample.ready} of {desired} replicas are not ready after {waited_s:.0f} s"
    return (
        most,
        f"{why}; {missing}: no more are asked for",
    )


def _may_sleep(spec: Spec, result: int, memory: Memory, sample: Sample, floor: Proposal) -> bool:
    if spec.min_replicas or result > 1 or floor.count or not sample.is_complete:
        return False
    return sample.at - memory.last_call_at >= spec.scale_to_zero_delay_s


def _bounded(spec: Spec, count: int) -> int:
    return min(spec.max_replicas, max(spec.min_replicas, count, 1))


def _remember(spec: Spec, desired: int, memory: Memory, sample: Sample, *, is_woken: bool) -> Memory:
    oldest = sample.at - spec.longest_s
    memory = replace(
        memory,
        samples=_until(memory.samples, sample, oldest),
        asked=tuple((at, count) for at, count in memory.asked if at >= oldest),
    )
    if sample.is_called or is_woken or not sample.is_complete:
        memory = replace(memory, last_call_at=sample.at)
    is_short = sample.ready < desired
    short_since = (memory.short_since if memory.short_since is not None else sample.at) if is_short else None
    return replace(memory, short_since=short_since, too_few=_too_few(spec, memory, sample))


def _until(samples: Sequence[Sample], newest: Sample, oldest: float) -> tuple[Sample, ...]:
    """What a gateway did not tell is not known to be nothing: it counts as what it told before, where that is more."""
    if not newest.is_complete and samples:
        last = samples[-1]
        newest = replace(
            newest,
            in_flight=max(newest.in_flight, last.in_flight),
            requests_per_s=max(newest.requests_per_s, last.requests_per_s),
        )
    return (*(each for each in samples if each.at >= oldest), newest)


def _too_few(spec: Spec, memory: Memory, sample: Sample) -> TooFew | None:
    stable = since(memory.samples, sample.at - spec.look_back_s)
    if sample.ready and is_too_slow(spec, stable):
        rate = mean(each.requests_per_s for each in stable) or 0.0
        known = memory.too_few
        count = max(sample.ready, known.count) if known is not None and known.holds(rate) else sample.ready
        return TooFew(count=count, requests_per_s=rate)
    return memory.too_few
