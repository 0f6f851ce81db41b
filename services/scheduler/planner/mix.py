"""What is usually asked for: how often each demand came, and the most frequent of them."""

from collections.abc import Iterable, Mapping
from math import fsum
from typing import Any, Final

from services.scheduler.planner.fit import RESOURCES, WHOLE
from services.scheduler.snapshot import Demand, Node

_COVERED: Final = 0.95  # the share of all tasks that the typical ones stand for
_MOST: Final = 64  # typical demands
_PRIOR: Final = ((250, 1.0), (500, 1.0), (1000, 3.0), (2000, 1.0), (4000, 1.0), (8000, 1.0))  # before anything is known
_GROWTH: Final = 1.25  # what is typical is looked at again when so much more was asked
_DRIFT: Final = 0.04  # ... and changed when the distributions differ by more


class Mix:
    """How often which demand was asked for."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        nodes = [node for node in nodes if node.devices]
        devices = sum(len(node.devices) for node in nodes) or 1
        cpu = sum(node.cpu_milli for node in nodes) // devices
        memory = sum(node.memory_bytes for node in nodes) // devices
        # Half of an even part of a node's other resources: not knowing, neither none nor all of it.
        self._counts = {
            Demand(
                device_milli=milli, cpu_milli=cpu * milli // WHOLE // 2, memory_bytes=memory * milli // WHOLE // 2
            ): weight
            for milli, weight in _PRIOR
        }
        self._prior = dict(self._counts)
        self._total = fsum(self._counts.values())
        self._look_at = self._total
        self._typical: dict[Demand, float] = {}

    def add(self, demand: Demand, number: float = 1.0) -> None:
        """It was asked for so often."""
        self._counts[demand] = self._counts.get(demand, 0.0) + number
        self._total += number

    def restart(self, numbers: Mapping[Demand, float]) -> None:
        """As if nothing had been asked for but this."""
        before = self._typical
        self._counts = dict(self._prior)
        self._look_at = self._total = fsum(self._counts.values())
        self._typical = {}
        self.typical()
        for demand, number in numbers.items():
            if number:
                self.add(demand, number)
        if self.typical() == before:
            self._typical = before

    def typical(self) -> dict[Demand, float]:
        """The most frequent demands for devices with their probabilities: the same object until that has changed."""
        if self._total >= self._look_at:
            self._look_at = self._total * _GROWTH
            found = self._most_frequent()
            keys = found.keys() | self._typical.keys()
            drift = fsum(abs(found.get(key, 0.0) - self._typical.get(key, 0.0)) for key in keys)
            if drift > 2 * _DRIFT:
                self._typical = found
        return self._typical

    def _most_frequent(self) -> dict[Demand, float]:
        wanting = [(number, demand) for demand, number in self._counts.items() if demand.device_milli]
        wanting.sort(key=lambda each: (-each[0], _order(each[1])))
        enough, found = _COVERED * fsum(number for number, _ in wanting), {}
        for number, demand in wanting[:_MOST]:
            if enough <= 0:
                break
            enough -= number
            found[demand] = number
        total = fsum(found.values())
        return {demand: number / total for demand, number in found.items()}


def _order(demand: Demand) -> tuple[Any, ...]:
    amounts = [getattr(demand, name) for name in RESOURCES]
    return (demand.device_milli, amounts, sorted(demand.device_models))
