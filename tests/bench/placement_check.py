"""Whether a list of placements is legal: reads the three files alone, and knows nothing of the planner.

`python tests/bench/placement_check.py NODES.csv ARRIVALS.csv ASSIGNMENTS.csv` prints what it found.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path


class Illegal(Exception):
    """A placement that cannot be."""


def check(nodes: Path, arrivals: Path, assignments: Path) -> dict[str, float]:
    """How many tasks were placed and how much of the devices they take; Illegal if anything is not as it must be."""
    tasks, placed = list(_rows(arrivals)), 0
    here = {row["sn"]: row for row in _rows(nodes)}
    free = {name: [1000] * int(row["gpu"]) for name, row in here.items()}
    left = {name: {key: int(row[key]) for key in ("cpu_milli", "memory_mib")} for name, row in here.items()}
    seen: set[int] = set()
    for row in _rows(assignments):
        index, name = int(row["task"]), row["node"]
        if index in seen or not 0 <= index < len(tasks) or name not in here:
            raise Illegal(f"there is no such task or node, or it was placed before: {row}")
        seen.add(index)
        placed += 1
        task = tasks[index]
        devices = [int(each) for each in row["devices"].split("|") if each]
        number = int(task["num_gpu"])
        if len(devices) != number or len(set(devices)) != number or not set(devices) <= set(range(len(free[name]))):
            raise Illegal(f"task {index} asks for {number} devices: {row}")
        if number and task.get("gpu_spec") and here[name]["model"] not in task["gpu_spec"].split("|"):
            raise Illegal(f"task {index} accepts {task['gpu_spec']}: {row}")
        for device in devices:
            free[name][device] -= int(task["gpu_milli"]) if number == 1 else 1000
            if free[name][device] < 0:
                raise Illegal(f"device {device} of {name} is over-allocated by task {index}")
        for key in left[name]:
            left[name][key] -= int(task[key])
            if left[name][key] < 0:
                raise Illegal(f"{key} of {name} is over-allocated by task {index}")
    capacity = sum(1000 * int(row["gpu"]) for row in here.values())
    used = capacity - sum(map(sum, free.values()))
    return {"placed": placed, "tasks": len(tasks), "gpu_allocation_pct": round(100 * used / capacity, 3)}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


if __name__ == "__main__":
    print(check(*map(Path, sys.argv[1:4])))
