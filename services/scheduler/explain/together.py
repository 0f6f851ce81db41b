"""Several changes that admit a workload together, where none does alone: all of them, less what is not needed.

What it could give up and what there could be more of are dials, in stages: where it may run, quotas, floating
resources, nodes, its number of slices, their size, and workloads of its own project. The first stages that are enough
when every dial of them is turned all the way are turned back, the last first: to nothing where that will do, else as
far as can be.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final, TypeAlias

from services.scheduler.explain import more
from services.scheduler.explain.changes import (
    AddNodes,
    Change,
    ChangeWorkload,
    RemoveWorkload,
    SetFloatingResource,
    SetQuota,
)
from services.scheduler.explain.gaps import RESOURCES
from services.scheduler.explain.given_up import any_model, step_of, with_amounts, with_count
from services.scheduler.explain.trial import Trial, smallest
from services.scheduler.queue_values import Queue, Quota
from services.scheduler.snapshot import Group, Node, Toleration, Workload

_PASSES: Final = 3  # over all dials; turning one back may let another be turned back further


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Wish:
    """Something that the workload asks for: what is left of it at a level, in words too."""

    give_up: Callable[[Workload, int], tuple[Workload, str]]
    most: int = 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _More:
    """Something that there could be more of, or without which there would be more room."""

    change: Callable[[int], Change]
    most: int = 1


_Dial: TypeAlias = _Wish | _More
_Levels: TypeAlias = dict[_Dial, int]


def together(trial: Trial, removable: Sequence[str]) -> tuple[Change, ...]:
    """Changes that admit it together, none of which can be left out; empty when there are none."""
    stages: list[list[_Dial]] = [
        list(_places(trial.workload)),
        list(_quotas(trial)),
        list(_floating(trial)),
        list(_nodes(trial)),
        list(_counts(trial.workload)),
        list(_sizes(trial.workload)),
        [_removal(name) for name in removable],
    ]
    for dials in accumulate(stages):
        levels: _Levels = {dial: dial.most for dial in dials if dial.most > 0}
        if trial.admits(*_changes(trial.workload, levels)):
            return _changes(trial.workload, _turned_back(trial, levels))
    return ()


def _turned_back(trial: Trial, levels: _Levels) -> _Levels:
    """Every dial at the lowest level that will do beside the others."""
    for _ in range(_PASSES):
        before = dict(levels)
        for dial in reversed(before):
            levels = _lowered(trial, levels, dial)
        if levels == before:
            break
    return levels


def _lowered(trial: Trial, levels: _Levels, dial: _Dial) -> _Levels:
    def at(level: int) -> _Levels:
        return {each: level if each is dial else other for each, other in levels.items()}

    without = {each: level for each, level in levels.items() if each is not dial}
    if dial not in levels or trial.admits(*_changes(trial.workload, without)):
        return without
    level = smallest(1, levels[dial], lambda level: trial.admits(*_changes(trial.workload, at(level))))
    return levels if level is None else at(level)


def _changes(workload: Workload, levels: _Levels) -> tuple[Change, ...]:
    """What the dials say: what it gives up is one change."""
    wished, words, found = workload, [], list[Change]()
    for dial, level in levels.items():
        if isinstance(dial, _Wish):
            wished, said = dial.give_up(wished, level)
            words.append(said)
        else:
            found.append(dial.change(level))
    if words:
        found.insert(0, ChangeWorkload(workload=wished, description="; ".join(words)))
    return tuple(found)


# What it asks for.


def _places(workload: Workload) -> Iterator[_Wish]:
    if workload.is_held:
        yield _Wish(give_up=lambda it, _: (replace(it, is_held=False), "take it off its hold"))
    if workload.topology is not None:
        level = workload.topology.level
        yield _Wish(give_up=lambda it, _: (replace(it, topology=None), f"ask for no {level} at all"))
    if workload.pools:
        yield _Wish(give_up=lambda it, _: (replace(it, pools=()), "allow every pool"))
    for label in workload.selector:
        yield _label(label)
    yield _Wish(give_up=lambda it, _: (replace(it, tolerations=(Toleration(),)), "tolerate every taint"))
    for group in workload.groups:
        if group.demand.device_models:
            yield _model(group)


def _label(label: tuple[str, str]) -> _Wish:
    def give_up(workload: Workload, _: int) -> tuple[Workload, str]:
        selector = tuple(each for each in workload.selector if each != label)
        return replace(workload, selector=selector), f"do not ask for nodes with {label[0]}={label[1]}"

    return _Wish(give_up=give_up)


def _model(group: Group) -> _Wish:
    return _Wish(give_up=lambda it, _: (any_model(it, group.name), f"allow any device model for {group.name}"))


def _counts(workload: Workload) -> Iterator[_Wish]:
    return (_count(group) for group in workload.groups)


def _count(group: Group) -> _Wish:
    def give_up(workload: Workload, level: int) -> tuple[Workload, str]:
        count = group.min_count - level
        words = f"ask for at least {count} instead of {group.min_count} slices of {group.name}"
        return with_count(workload, group.name, count), words

    return _Wish(give_up=give_up, most=group.min_count - 1)


def _sizes(workload: Workload) -> Iterator[_Wish]:
    return (_size(group, resource) for group in workload.groups for resource in RESOURCES)


def _size(group: Group, resource: str) -> _Wish:
    now: int = getattr(group.demand, resource)
    step = step_of(resource, now)
    steps = -(-now // step)

    def give_up(workload: Workload, level: int) -> tuple[Workload, str]:
        left = (steps - level) * step
        words = f"ask for {left} instead of {now} {resource} per slice of {group.name}"
        return with_amounts(workload, group.name, {resource: left}), words

    return _Wish(give_up=give_up, most=steps - 1)


# What there could be more of.


def _quotas(trial: Trial) -> Iterator[_More]:
    return (_quota(queue, quota, more.asked_of(trial, quota.resource)) for queue, quota in more.quotas(trial))


def _quota(queue: Queue, quota: Quota, most: int) -> _More:
    def change(level: int) -> Change:
        return SetQuota(queue=queue.name, quota=replace(quota, nominal=quota.nominal + level))

    return _More(change=change, most=most)


def _floating(trial: Trial) -> Iterator[_More]:
    for name, _ in trial.workload.floating:
        now = trial.snapshot.floating.get(name, 0)
        yield _licences(name, now, more.asked_of_floating(trial, name) - now)


def _licences(name: str, now: int, most: int) -> _More:
    return _More(change=lambda level: SetFloatingResource(name=name, capacity=now + level), most=most)


def _nodes(trial: Trial) -> Iterator[_More]:
    """Nodes that could hold a slice of it, wherever they are; if there are none, that could hold a smaller one."""
    anywhere = _without(trial.workload, _places(trial.workload))
    small = _without(anywhere, _sizes(anywhere))
    for node in more.kinds(trial, anywhere) or more.kinds(trial, small):
        yield _like(node, max(more.limits(trial)))


def _without(workload: Workload, wishes: Iterator[_Wish]) -> Workload:
    for wish in wishes:
        if wish.most > 0:
            workload, _ = wish.give_up(workload, wish.most)
    return workload


def _like(node: Node, most: int) -> _More:
    return _More(change=lambda level: AddNodes(like=node.name, count=level), most=most)


def _removal(name: str) -> _More:
    return _More(change=lambda _: RemoveWorkload(workload=name))
