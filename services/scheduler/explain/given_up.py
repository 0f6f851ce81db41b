"""What a waiting workload could give up of its own wishes, least first."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from services.scheduler.explain.changes import Change, ChangeWorkload
from services.scheduler.explain.gaps import RESOURCES, is_barred
from services.scheduler.explain.trial import Trial, largest
from services.scheduler.snapshot import Group, Toleration, Topology, Workload

_STEP: Final = {"memory_bytes": 1 << 20, "storage_bytes": 1 << 20}  # nobody asks for single bytes
_ANY: Final = (Toleration(),)


def hold(trial: Trial) -> Change | None:
    """It is taken off its hold."""
    workload = trial.workload
    return _if_admits(trial, replace(workload, is_held=False), "take it off its hold") if workload.is_held else None


def topology(trial: Trial) -> Change | None:
    """It only prefers that its slices are near to each other, or does not ask for it."""
    wished = trial.workload.topology
    if wished is None:
        return None
    if wished.is_required:
        softer: Topology = replace(wished, is_required=False)
        found = _if_admits(
            trial, replace(trial.workload, topology=softer), f"prefer one {wished.level} instead of requiring it"
        )
        if found is not None:
            return found
    return _if_admits(trial, replace(trial.workload, topology=None), f"ask for no {wished.level} at all")


def fewer_slices(trial: Trial, workload: Workload, beside: str) -> Change | None:
    """One group alone has the largest count that fits; else no group has more than the largest that fits."""
    found = next((change for group in workload.groups if (change := _fewer_of(trial, workload, group, beside))), None)
    most = max(group.min_count for group in workload.groups)
    if found is not None or len(workload.groups) == 1 or most == 1:
        return found
    count = _largest(trial, 1, most, lambda count: _capped(workload, count))
    if count is None:
        return None
    words = f"{beside}ask for at most {count} slices of each group"
    return ChangeWorkload(workload=_capped(workload, count), description=words)


def _fewer_of(trial: Trial, workload: Workload, group: Group, beside: str) -> Change | None:
    count = _largest(trial, 1, group.min_count, lambda count: with_count(workload, group.name, count))
    if count is None:
        return None
    words = f"{beside}ask for at least {count} instead of {group.min_count} slices of {group.name}"
    return ChangeWorkload(workload=with_count(workload, group.name, count), description=words)


def less_per_slice(trial: Trial, workload: Workload, beside: str) -> Change | None:
    """One resource of one group alone, as much of it as can be."""
    pairs = ((group, resource) for group in workload.groups for resource in RESOURCES)
    return next((change for each in pairs if (change := _less_of(trial, workload, *each, beside))), None)


def _less_of(trial: Trial, workload: Workload, group: Group, resource: str, beside: str) -> Change | None:
    now: int = getattr(group.demand, resource)
    step = step_of(resource, now)

    def lessened(steps: int) -> Workload:
        return with_amounts(workload, group.name, {resource: steps * step})

    steps = _largest(trial, 1, -(-now // step), lessened)
    if steps is None:
        return None
    words = f"{beside}ask for {steps * step} instead of {now} {resource} per slice of {group.name}"
    return ChangeWorkload(workload=lessened(steps), description=words)


def elsewhere(trial: Trial) -> Change | None:
    """Other nodes than those it asks for: another pool, label, model or taint."""
    return next(
        (change for wished, words in _other_places(trial) if (change := _if_admits(trial, wished, words))), None
    )


def _other_places(trial: Trial) -> Iterator[tuple[Workload, str]]:
    workload, snapshot = trial.workload, trial.snapshot
    if workload.pools:
        others = sorted(snapshot.pools - set(workload.pools))
        for pool in others:
            yield replace(workload, pools=(*workload.pools, pool)), f"allow {pool} too"
        if len(others) > 1:
            yield replace(workload, pools=()), "allow every pool"
    for label, value in workload.selector:
        others_ = tuple(each for each in workload.selector if each != (label, value))
        yield replace(workload, selector=others_), f"do not ask for nodes with {label}={value}"
    for group in workload.groups:
        if group.demand.device_models:
            yield any_model(workload, group.name), f"allow any device model for {group.name}"
    taints = {
        taint.key: taint for node in snapshot.nodes.values() for taint in node.taints if is_barred(taint, workload)
    }
    for key in sorted(taints):
        yield replace(workload, tolerations=(*workload.tolerations, Toleration(key=key))), f"tolerate the taint {key}"


def several(trial: Trial) -> Change | None:
    """Several wishes given up at once, fewer before more."""
    workload = trial.workload
    anywhere = replace(workload, is_held=False, topology=None, pools=(), selector=(), tolerations=_ANY)
    for group in workload.groups:
        anywhere = any_model(anywhere, group.name)
    beside = "let it run anywhere, and "
    found = _if_admits(trial, anywhere, "let it run anywhere: any pool, node, device model and topology")
    found = found or fewer_slices(trial, anywhere, beside)
    single = _capped(anywhere, 1)
    found = found or _if_admits(trial, single, f"{beside}ask for one slice of each group")
    found = found or less_per_slice(trial, single, f"{beside}ask for one slice of each group, and ")
    return found or _if_admits(trial, _least(single), f"{beside}ask for one slice of each group, as small as can be")


def _least(workload: Workload) -> Workload:
    for group in workload.groups:
        least = {name: min(_STEP.get(name, 1), getattr(group.demand, name)) for name in RESOURCES}
        workload = with_amounts(workload, group.name, least)
    return workload


def _if_admits(trial: Trial, wished: Workload, words: str) -> Change | None:
    change = ChangeWorkload(workload=wished, description=words)
    return change if trial.admits(change) else None


def _largest(trial: Trial, floor: int, below: int, wished: Callable[[int], Workload]) -> int | None:
    return largest(floor, below, lambda number: trial.admits(ChangeWorkload(workload=wished(number))))


def with_count(workload: Workload, group: str, count: int) -> Workload:
    """The same with so many slices of a group at the least, if that is fewer."""
    return _with(workload, group, lambda each: replace(each, min_count=min(each.min_count, count)))


def with_amounts(workload: Workload, group: str, amounts: Mapping[str, int]) -> Workload:
    """The same with other amounts per slice of a group."""
    changed: dict[str, Any] = dict(amounts)
    return _with(workload, group, lambda each: replace(each, demand=replace(each.demand, **changed)))


def any_model(workload: Workload, group: str) -> Workload:
    """The same for devices of any model."""
    return _with(workload, group, lambda each: replace(each, demand=replace(each.demand, device_models=frozenset())))


def step_of(resource: str, now: int) -> int:
    """In what steps somebody who asks for so much would ask for less."""
    return 1000 if resource == "device_milli" and now >= 1000 else _STEP.get(resource, 1)


def _capped(workload: Workload, count: int) -> Workload:
    for group in workload.groups:
        workload = with_count(workload, group.name, count)
    return workload


def _with(workload: Workload, group: str, change: Callable[[Group], Group]) -> Workload:
    groups = tuple(change(each) if each.name == group else each for each in workload.groups)
    return replace(workload, groups=groups)
