"""Backfill delays nobody: with durations that are true, the first in line starts no later for those that pass it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from services.scheduler.lifecycle import FINAL
from services.scheduler.planner.backfill import Backfill
from services.scheduler.snapshot import Kind, SliceState, State, Workload
from tests.scheduler.world import World, group, node, workload

HEAD = "projects/p/workloads/head"


@dataclass(frozen=True, slots=True)
class Situation:
    """A fleet, what runs on it, one that does not fit now, and those behind it."""

    nodes: tuple[int, ...]  # devices of each
    running: tuple[Workload, ...]
    head: Workload
    behind: tuple[Workload, ...]


def situation(seed: int) -> Situation:
    """A random one in which the head has to wait and could start on an empty fleet."""
    rng = random.Random(seed)
    nodes = tuple(rng.choice([2, 4, 8]) for _ in range(rng.randint(1, 4)))
    running = tuple(_job(rng, f"r{at}", rng.choice([1, 1, 2, 4])) for at in range(rng.randint(1, 8)))
    wide = rng.randint(1, 3)
    head = replace(
        _job(rng, "head", rng.choice([2, 4, 8])),
        groups=(group(wide, 1000 * rng.choice([1, 2, 4])),),
        kind=Kind.TRAINING,
    )
    return Situation(nodes, running, head, tuple(_job(rng, f"b{at}", rng.choice([1, 1, 2])) for at in range(8)))


def _job(rng: random.Random, name: str, devices: int) -> Workload:
    duration_s = float(rng.choice([30, 60, 90, 120, 300, 600]))
    return workload(
        f"projects/p/workloads/{name}", group(1, 1000 * devices), kind=Kind.TRAINING, expected_duration_s=duration_s
    )


def begins(given: Situation, behind: tuple[Workload, ...]) -> tuple[float | None, set[str]]:
    """When the head begins, and who had begun before it of those behind it; every job runs as long as it says."""
    world = World(*(node(f"n{at}", devices) for at, devices in enumerate(given.nodes)))
    world.submit(*given.running)
    world.settle()
    for each in given.running:  # room is kept for the first that waits: that is to be the head
        if world.workloads[each.name].state is State.PENDING:
            del world.workloads[each.name]
            world.assignments.pop(each.name, None)
    _go(world)
    world.submit(given.head, *behind)
    for _ in range(200):
        world.settle()
        _go(world)
        if world.workloads[HEAD].state is not State.PENDING:
            passed = {each.name for each in behind if world.workloads[each.name].state is not State.PENDING}
            return world.now, passed
        ends = [at for _, at in _ends(world)]
        if not ends:
            return None, set()
        world.now = min(ends)
        for name, at in list(_ends(world)):
            if at <= world.now:
                for one in world.slices(name):
                    world.report(name, one.index, SliceState.SUCCEEDED)
    raise AssertionError("it never begins")


def _go(world: World) -> None:
    for name, generations in world.assignments.items():
        for assignment in generations.values():
            for one in assignment.slices:
                if one.state is SliceState.ASSIGNED:
                    world.report(name, one.index, SliceState.RUNNING)


def _ends(world: World) -> Iterator[tuple[str, float]]:
    for name, generations in world.assignments.items():
        each = world.workloads[name]
        if any(one.state not in FINAL for assignment in generations.values() for one in assignment.slices):
            assert each.assigned_at is not None
            yield name, each.assigned_at + each.expected_duration_s


def violations(seeds: range) -> Iterator[tuple[int, float, float]]:
    """Where the head begins later than it would if nobody were behind it."""
    for seed in seeds:
        given = situation(seed)
        alone, _ = begins(given, ())
        if not alone:  # never, or at once
            continue
        among, _ = begins(given, given.behind)
        if among is None or among > alone:
            yield seed, alone, among or float("inf")


def test_those_that_pass_do_not_delay_the_head() -> None:
    assert not list(violations(range(60)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(8))
def test_those_that_pass_do_not_delay_the_head_in_many_situations(part: int) -> None:
    assert not list(violations(range(60 + part * 100, 160 + part * 100)))


def test_some_do_pass() -> None:
    """Or it would be no backfill."""
    waiting = [given for given in map(situation, range(25)) if begins(given, ())[0]]
    assert sum(bool(begins(given, given.behind)[1]) for given in waiting) >= 4


def test_passing_without_regard_to_the_head_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backfill, "wait", lambda *_: None)
    assert any(True for _ in violations(range(60)))
