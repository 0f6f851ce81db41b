"""The measure of fragmentation, against its definition written out for one node at a time."""

import random
from math import floor, inf

import numpy as np
import pytest

from services.scheduler.planner.cell import Grid
from services.scheduler.planner.fit import Profile
from services.scheduler.planner.fragmentation import Fragmentation
from services.scheduler.planner.mix import Mix
from services.scheduler.snapshot import Demand, Device, Node

_UNUSABLE, _RESIDUE, _SIZE_POWER = 0.9, 0.2, -1.0
_GIB = 1 << 30


def _weights(typical: dict[Demand, float]) -> dict[Demand, float]:
    found = {each: number * (_milli(each) / 1000) ** _SIZE_POWER for each, number in typical.items()}
    return {each: number / sum(found.values()) for each, number in found.items()}


def _milli(demand: Demand) -> int:
    return demand.device_milli if demand.device_milli < 1000 else demand.device_milli // 1000 * 1000


def _expected(typical: dict[Demand, float], free: list[int], cpu: int, memory: int, model: str) -> float:
    """The expectation over typical tasks of what they cannot use of a node, and of what filling it would leave."""
    total, found = sum(free), 0.0
    for demand, weight in _weights(typical).items():
        each, devices = min(demand.device_milli, 1000), max(1, demand.device_milli // 1000)
        fits = float(sum(level // each for level in free) // devices)
        fits = min(fits, floor(cpu / demand.cpu_milli) if demand.cpu_milli else inf)
        fits = min(fits, floor(memory / demand.memory_bytes) if demand.memory_bytes else inf)
        if demand.device_models and model not in demand.device_models:
            fits = 0.0
        unusable = sum(level for level in free if level < each) if fits >= 1 else total
        left_over = total - max(fits, 0.0) * _milli(demand)
        found += weight * (_UNUSABLE * unusable + (1 - _UNUSABLE) * left_over)
    return found


def _residues(typical: dict[Demand, float], free: list[int]) -> float:
    shares = [each.device_milli for each in typical if each.device_milli <= 1000]
    return _RESIDUE * sum(_residue(level, shares) for level in free)


def _residue(level: int, shares: list[int]) -> int:
    """What no mixture of shares fills of a device."""
    sums = {0}
    for _ in range(level // min(shares) + 1 if shares else 0):
        sums |= {before + share for before in sums for share in shares if before + share <= level}
    return level - max(sums)


def _demand(rng: random.Random) -> Demand:
    return Demand(
        device_milli=rng.choice([200, 300, 470, 500, 810, 1000, 2000, 4000, 8000]),
        cpu_milli=rng.choice([0, 1000, 4000, 11000]),
        memory_bytes=rng.choice([0, _GIB, 5 * _GIB]),
        device_models=rng.choice([frozenset[str](), frozenset[str](), frozenset("A")]),
    )


@pytest.mark.parametrize("seed", range(40))
def test_what_a_slice_adds_is_the_difference_of_the_expectations(seed: int) -> None:
    rng = random.Random(seed)
    numbers = {_demand(rng): rng.random() for _ in range(rng.randint(1, 6))}
    typical = {each: number / sum(numbers.values()) for each, number in numbers.items()}
    model = rng.choice("AB")
    nodes = {
        name: Node(
            name=name,
            pool="p",
            session=name,
            cpu_milli=rng.choice([8000, 32000]),
            memory_bytes=64 * _GIB,
            devices=tuple(Device(index=at, model=model) for at in range(rng.choice([1, 2, 4, 8]))),
        )
        for name in ("a", "b", "c")
    }
    grid = Grid(nodes)
    measure = Fragmentation(grid, typical)

    def expected(name: str) -> float:
        cpu, memory, *_ = grid.machines[name].cell.amounts
        return _expected(typical, grid.machines[name].free, cpu, memory, model)

    for _ in range(12):
        machine = grid.machines[rng.choice("abc")]
        profile = Profile(_demand(rng), rng.randrange(1 << 40))
        if not machine.cell.count(profile):
            continue
        is_share = profile.each < 1000
        gains = measure.gains(profile) if is_share else None
        deltas, levels = measure.deltas(profile, np.array([machine.cell.row]), gains)
        before, levels_before = expected(machine.name), list(machine.free)
        level = int(levels[0])
        if is_share:
            alone = {left: measure.device[left - profile.each] - measure.device[left] for left in set(machine.free)}
            fitting = {left: gain for left, gain in alone.items() if left >= profile.each}
            assert fitting[level] == pytest.approx(min(fitting.values())), "not the device that loses least"
        grid.take(machine, profile, level)
        change = expected(machine.name) - before
        if is_share:
            change += _residues(typical, machine.free) - _residues(typical, levels_before)
        assert float(deltas[0]) == pytest.approx(change, abs=1e-6)


def test_what_is_typical_follows_what_is_asked_for() -> None:
    mix = Mix([])
    before = mix.typical()
    for _ in range(100):
        mix.add(Demand(device_milli=300))
    after = mix.typical()
    assert after is not before
    assert max(after, key=lambda each: after[each]) == Demand(device_milli=300)
    assert sum(after.values()) == pytest.approx(1.0)
    mix.add(Demand(device_milli=300))
    assert mix.typical() is after, "small changes change nothing"


def test_what_asks_for_no_device_is_not_typical() -> None:
    mix = Mix([])
    for _ in range(1000):
        mix.add(Demand(cpu_milli=1000))
    assert all(each.device_milli for each in mix.typical())
