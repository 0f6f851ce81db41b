"""Whether a new revision does harm to real calls: how it does against the old one in a long and a short window.

The method is the multi-window alert of Google's SRE workbook (chapter 5), with the old revision as the objective: the
long window says enough to be sure, the short one that it still goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lepton.inference.v1.rollout_pb2 import RollbackPolicy
from services.inference.envoy.load import Load

WINDOW_S: Final = 60.0
SHORT: Final = 6
"""The short window is the long one divided by this."""
MIN_CALLS: Final = 20
MAX_ERROR_RATIO: Final = 0.01
MAX_LATENCY_RATIO: Final = 2.0
LATENCY_FLOOR_MS: Final = 5.0
"""Differences below it never count: they are the machine's own."""
_QUANTILE: Final = 0.9
_WARM: Final = 0.8
_Judge = Callable[[Load, Load, RollbackPolicy, float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What every revision had answered at one moment, in seconds of a clock that never goes back."""

    at_s: float
    loads: Mapping[int, Load]


def windows_s(policy: RollbackPolicy) -> tuple[float, float]:
    """The long and the short window."""
    long_s = policy.window.ToTimedelta().total_seconds() or WINDOW_S
    return long_s, long_s / SHORT


def harm(samples: Sequence[Sample], stable: int, candidate: int, policy: RollbackPolicy) -> str:
    """What the new revision does wrong, in words; empty when it does not, or too little is known. Samples in order.

    Errors count from the first calls on. Latency counts once calls have come for most of the long window: replicas that
    have just been started are slow, and so is the machine that starts them.
    """
    if policy.disabled or len(samples) < 2:
        return ""
    windows = [_window(samples, window_s) for window_s in windows_s(policy)]
    judged = [_errors]
    served = next((each.at_s for each in samples if each.loads.get(candidate, Load()).requests), samples[-1].at_s)
    if samples[-1].at_s - served >= _WARM * windows_s(policy)[0]:
        judged.append(_latency)
    for judge in judged:
        found = [_harm_in(window, stable, candidate, policy, judge) for window in windows]
        if all(found):
            return found[0]
    return ""


def _window(samples: Sequence[Sample], window_s: float) -> tuple[Sample, Sample]:
    last = samples[-1]
    begin = [each for each in samples if each.at_s <= last.at_s - window_s]
    return (begin or samples[:1])[-1], last


def _harm_in(window: tuple[Sample, Sample], stable: int, candidate: int, policy: RollbackPolicy, judge: _Judge) -> str:
    begin, end = window
    new, old = _between(begin, end, candidate), _between(begin, end, stable)
    if new.requests < (policy.min_calls or MIN_CALLS):
        return ""
    return judge(new, old, policy, end.at_s - begin.at_s)


def _errors(new: Load, old: Load, policy: RollbackPolicy, span_s: float) -> str:
    limit = policy.max_error_ratio if policy.HasField("max_error_ratio") else MAX_ERROR_RATIO
    bad, usual = new.errors / new.requests, old.errors / old.requests if old.requests else 0.0
    if bad - usual <= limit:
        return ""
    return (
        f"{bad:.1%} of the new revision's {new.requests} calls in {span_s:.0f} s failed, of the old one's {usual:.1%}; "
        f"{limit:.1%} more may"
    )


def _latency(new: Load, old: Load, policy: RollbackPolicy, span_s: float) -> str:
    if not new.latencies or not old.latencies:
        return ""
    limit = policy.max_latency_ratio if policy.HasField("max_latency_ratio") else MAX_LATENCY_RATIO
    slow, usual = new.quantile_ms(_QUANTILE), old.quantile_ms(_QUANTILE)
    if slow <= usual * limit or slow - usual <= LATENCY_FLOOR_MS:
        return ""
    return (
        f"the new revision's 90th percentile of latency is {slow:.0f} ms in {span_s:.0f} s, the old one's {usual:.0f} "
        f"ms; {limit:g} times as much may be"
    )


def _between(begin: Sample, end: Sample, revision: int) -> Load:
    return end.loads.get(revision, Load()).since(begin.loads.get(revision, Load()))
