"""The files of Alibaba's openb trace: nodes, tasks, and arrivals drawn from them."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from services.scheduler.snapshot import Demand, Device, Node

POOL: Final = "pools/openb"
COLUMNS: Final = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec")
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A row of a list of tasks."""

    name: str
    cpu_milli: int
    memory_mib: int
    num_gpu: int
    gpu_milli: int  # of each device
    gpu_spec: str = ""

    @property
    def total_milli(self) -> int:
        """Thousandths of devices in all."""
        return self.num_gpu * self.gpu_milli

    def demand(self) -> Demand:
        """As the planner knows it."""
        return Demand(
            cpu_milli=self.cpu_milli,
            memory_bytes=self.memory_mib * _MIB,
            device_milli=self.total_milli,
            device_models=frozenset(filter(None, self.gpu_spec.split("|"))) if self.num_gpu else frozenset(),
        )


def nodes(path: Path) -> dict[str, Node]:
    """The nodes of a list; the name of each is that in the file."""
    with path.open(newline="") as file:
        return {each["sn"]: _node(each) for each in csv.DictReader(file)}


def tasks(path: Path) -> list[Task]:
    """The tasks of a list, in its order."""
    with path.open(newline="") as file:
        return [_task(each) for each in csv.DictReader(file)]


def arrivals(pods: Sequence[Task], capacity_milli: int, seed: int, ratio: float) -> Iterator[Task]:
    """Tasks drawn with replacement until they ask for `ratio` times the devices."""
    random, asked = Random(seed), 0
    while asked < ratio * capacity_milli:
        task = random.choice(pods)
        asked += task.total_milli
        yield task


def write(path: Path, rows: Iterable[Task]) -> None:
    """A list of tasks."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([getattr(row, column) for column in COLUMNS] for row in rows)


def _node(row: dict[str, str]) -> Node:
    return Node(
        name=row["sn"],
        pool=POOL,
        session=row["sn"],
        cpu_milli=int(row["cpu_milli"]),
        memory_bytes=int(row["memory_mib"]) * _MIB,
        devices=tuple(Device(index=at, model=row["model"]) for at in range(int(row["gpu"] or 0))),
    )


def _task(row: dict[str, str]) -> Task:
    number = int(row["num_gpu"] or 0)
    share = int(row["gpu_milli"] or 0) if number == 1 else 1000 if number else 0
    return Task(
        name=row["name"],
        cpu_milli=int(row["cpu_milli"] or 0),
        memory_mib=int(row["memory_mib"] or 0),
        num_gpu=number,
        gpu_milli=share or (1000 if number else 0),
        gpu_spec=row.get("gpu_spec") or "",
    )
