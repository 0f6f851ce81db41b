"""What follows when a generation of a gang breaks: whose fault it was, whether it is restarted, when, and not where."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from chassis.failures import FREE, FailureClass, Sighting, first_cause
from services.scheduler.failure_values import Failures, RestartRule
from services.scheduler.lifecycle import backoff_s
from services.scheduler.snapshot import Slice, SliceState, Workload

MOST_AVOIDED: Final = 8  # nodes; of more the oldest are forgotten
LONGEST_BACKOFF_S: Final = 600.0
_FROM_OUTSIDE: Final = frozenset({-9, -15})  # signals that say nothing of what the program does the next time
_VARYING: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of the gang."""

    failures: Failures
    message: str
    is_over: bool = False  # it is not restarted any more
    counts: bool = False  # as a restart


def follow_up(workload: Workload, slices: Sequence[Slice], generation: int, *, was_stopped: bool) -> Outcome:
    """The outcome of a generation that has ended everywhere; `was_stopped`: for others, not because it broke."""
    blamed, failure_class = _blame(slices, was_stopped=was_stopped)
    rule = _rule(workload, failure_class)
    failures = _record(workload.failures, slices, blamed, failure_class, generation, workload.message)
    is_counted = rule.max_restarts is not None or failure_class not in FREE
    message = workload.message if was_stopped else words(slices, blamed)
    if is_counted:
        has_progressed = failures.step > workload.failures.furthest_step
        streak = 1 if has_progressed else workload.failures.streak + 1
        failures = replace(failures, streak=streak, backoff_s=_backoff_s(rule, streak))
    failures = _avoid(failures, rule, slices, blamed)
    if rule.stops_repeated and _is_repeated(workload.failures, failures):
        again = f"it failed so at step {failures.step} twice in a row: it is not tried again"
        return Outcome(failures=failures, message=f"{message}; {again}", is_over=True)
    if is_counted and not _has_left(workload, rule):
        return Outcome(failures=failures, message=message + _budget_words(workload, rule), is_over=True)
    counts = dict(failures.restarts)
    counts[failure_class] = counts.get(failure_class, 0) + 1
    failures = replace(failures, restarts=tuple(sorted(counts.items())))
    return Outcome(failures=failures, message=message, counts=is_counted)


def pause_s(failures: Failures, restarts: int) -> float:
    """How long it waits after its newest restart."""
    return failures.backoff_s if failures.generation else backoff_s(restarts)


def words(slices: Sequence[Slice], blamed: Slice | None = None) -> str:
    """What broke, in words: the slice that is to blame, and how many others."""
    for states in ((SliceState.FAILED, SliceState.LOST), (SliceState.STOPPED,), tuple(SliceState)):
        broken = [each for each in slices if each.state in states]
        if broken:
            break
    first = blamed or _blame(slices)[0] or broken[0]
    code = f" with exit code {first.exit_code}" if first.exit_code else ""
    said = f": {first.message}" if first.message else ""
    kind = f" ({first.failure.failure_class})" if first.failure is not None else ""
    others = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    named = ", ".join(f"slice {each.index} on {each.node}" for each in _suspects(first, slices))
    whom = f" (it names {named})" if named else ""
    return f"slice {first.index} on {first.node} {first.state.name.lower()}{kind}{code}{said}{whom}{others}"


def _suspects(blamed: Slice, slices: Sequence[Slice]) -> list[Slice]:
    """Those that a slice says are at fault; if it says all, it does not know."""
    suspects = blamed.failure.suspects if blamed.failure is not None else ()
    found = [each for each in slices if each.index in suspects]
    return found if len(found) < len(slices) else []


def _blame(slices: Sequence[Slice], *, was_stopped: bool = False) -> tuple[Slice | None, str]:
    """The slice that is to blame, and the class of what it did."""
    if was_stopped:
        return None, FailureClass.PREEMPTED
    lost = [each for each in slices if each.state is SliceState.LOST]
    if lost:
        return lost[0], FailureClass.NODE_LOST
    failed = [each for each in slices if each.state is SliceState.FAILED]
    if not failed:
        stopped = next((each for each in slices if each.state is SliceState.STOPPED), None)
        return stopped, FailureClass.PREEMPTED  # by its agent, which leaves
    sightings = [_sighting(each) for each in failed]
    at = first_cause(sightings)
    return failed[at], sightings[at].failure_class


def _sighting(each: Slice) -> Sighting:
    failure = each.failure
    if failure is None:  # its agent could not tell, or is older
        return Sighting(failure_class=FailureClass.USER_ERROR, noticed_s=0.0)
    return Sighting(
        failure_class=failure.failure_class, noticed_s=failure.noticed_s, step=failure.step, waited=failure.waited
    )


def _rule(workload: Workload, failure_class: str) -> RestartRule:
    found = next((rule for rule in workload.rules if rule.failure_class == failure_class), None)
    return found or RestartRule(failure_class=failure_class)


def _record(
    before: Failures, slices: Sequence[Slice], blamed: Slice | None, failure_class: str, generation: int, message: str
) -> Failures:
    step = max((each.failure.step for each in slices if each.failure is not None), default=0)
    failure = blamed.failure if blamed is not None else None
    return replace(
        before,
        failure_class=failure_class,
        generation=generation,
        slice=blamed.index if blamed is not None else 0,
        node=blamed.node if blamed is not None else "",
        message=blamed.message if blamed is not None else message,
        exit_code=blamed.exit_code if blamed is not None else 0,
        noticed_s=failure.noticed_s if failure is not None else 0.0,
        step=step,
        furthest_step=max(step, before.furthest_step),
    )


def _avoid(failures: Failures, rule: RestartRule, slices: Sequence[Slice], blamed: Slice | None) -> Failures:
    if not rule.avoids_node or blamed is None:
        return failures
    nodes = [each.node for each in _suspects(blamed, slices)]
    if not nodes and not _sighting(blamed).may_be_collateral:  # a victim says nothing of its own node
        nodes = [blamed.node]
    kept = [node for node in failures.avoided if node not in nodes]
    return replace(failures, avoided=tuple([*kept, *dict.fromkeys(nodes)][-MOST_AVOIDED:]))


def _backoff_s(rule: RestartRule, streak: int) -> float:
    if rule.backoff_s is None:
        return backoff_s(streak)
    return min(rule.backoff_s * 2.0 ** min(streak - 1, 30), max(rule.backoff_s, LONGEST_BACKOFF_S))


def _is_repeated(before: Failures, now: Failures) -> bool:
    """Whether the program has done the same twice: failed in the same words at the same step, by itself."""
    return (
        before.failure_class == now.failure_class
        and before.step == now.step
        and now.exit_code not in _FROM_OUTSIDE
        and _VARYING.sub("#", before.message) == _VARYING.sub("#", now.message)
    )


def _has_left(workload: Workload, rule: RestartRule) -> bool:
    used, most = _used(workload, rule)
    return used < most


def _used(workload: Workload, rule: RestartRule) -> tuple[int, int]:
    """How many restarts of its budget are used, and how many it has: its own, or the one that is left to share."""
    counts = dict(workload.failures.restarts)
    if rule.max_restarts is not None:
        return counts.get(rule.failure_class, 0), rule.max_restarts
    own = sum(counts.get(each.failure_class, 0) for each in workload.rules if each.max_restarts is not None)
    return workload.restarts - own, workload.max_restarts


def _budget_words(workload: Workload, rule: RestartRule) -> str:
    if not workload.rules:
        return ""
    used, most = _used(workload, rule)
    whose = f" for {rule.failure_class}" if rule.max_restarts is not None else ""
    return f"; {used} of {most} {'restart is' if most == 1 else 'restarts are'} used{whose}"
