"""A trace of one's own: a CSV file with a line for each job, read into jobs for the simulator."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from services.scheduler.simulator.job import WHOLE, Job
from services.scheduler.snapshot import Demand, Group, Kind, Workload

COLUMNS: Final[Mapping[str, str]] = {
    "submitted": "when it comes: seconds, or a date and time in ISO 8601",
    "duration_s": "how long it runs with all its slices, undisturbed",
    "devices": "devices of a slice; below 1 a share of one (default 1)",
    "slices": "slices of the gang (default 1)",
    "min_slices": "with how many it may run at least (default: all)",
    "cpu": "cores of a slice (default 0)",
    "memory_gib": "GiB of memory of a slice (default 0)",
    "project": "whose it is (default `default`)",
    "priority": "higher comes first (default 0)",
    "estimate_s": "what the scheduler is told of the duration, under policies that are told (default: the truth)",
}
_NEEDED: Final = ("submitted", "duration_s")


class BadTrace(ValueError):
    """A line that cannot be read: which, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One job of a trace."""

    at: float  # seconds since the first one
    duration_s: float
    demand: Demand
    slices: int = 1
    min_slices: int = 1
    project: str = "default"
    priority: int = 0
    estimate_s: float = 0.0


def read(path: Path) -> tuple[Line, ...]:
    """The lines in the order of their submission; the first one comes at 0."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or ()
        if missing := [name for name in _NEEDED if name not in columns]:
            raise BadTrace(f"{path}: there is no column {', '.join(missing)}; there may be {', '.join(COLUMNS)}")
        if unknown := [name for name in columns if name not in COLUMNS]:
            raise BadTrace(f"{path}: unknown column {', '.join(unknown)}; there may be {', '.join(COLUMNS)}")
        lines = [_line(path, number, row) for number, row in enumerate(rows, start=2)]
    lines.sort(key=lambda each: each[0])
    first = lines[0][0] if lines else 0.0
    return tuple(
        Line(
            at=at - first,
            duration_s=each.duration_s,
            demand=each.demand,
            slices=each.slices,
            min_slices=each.min_slices,
            project=each.project,
            priority=each.priority,
            estimate_s=each.estimate_s,
        )
        for at, each in lines
    )


def jobs(lines: tuple[Line, ...], *, pool: str, knows_duration: bool) -> tuple[Job, ...]:
    """The jobs of a trace. `knows_duration`: whether the planner is told how long each will run."""
    return tuple(
        Job(
            at=line.at,
            work_s=line.duration_s,
            workload=Workload(
                name=f"projects/{line.project}/workloads/j{number:06}",
                kind=Kind.TRAINING,
                groups=(
                    Group(
                        name="worker",
                        min_count=line.min_slices,
                        max_count=line.slices,
                        demand=line.demand,
                        program=b"trace",
                    ),
                ),
                pools=(pool,),
                priority=line.priority,
                expected_duration_s=line.estimate_s if knows_duration else 0.0,
            ),
        )
        for number, line in enumerate(lines)
    )


def _line(path: Path, number: int, row: Mapping[str, str]) -> tuple[float, Line]:
    try:
        slices = int(row.get("slices") or 1)
        duration_s = float(row["duration_s"])
        devices = float(row.get("devices") or 1)
        line = Line(
            at=0.0,
            duration_s=duration_s,
            demand=Demand(
                device_milli=round(devices * WHOLE),
                cpu_milli=round(float(row.get("cpu") or 0) * 1000),
                memory_bytes=round(float(row.get("memory_gib") or 0) * (1 << 30)),
            ),
            slices=slices,
            min_slices=int(row.get("min_slices") or slices),
            project=row.get("project") or "default",
            priority=int(row.get("priority") or 0),
            estimate_s=float(row.get("estimate_s") or duration_s),
        )
        at = _time(row["submitted"])
    except (TypeError, ValueError) as error:
        raise BadTrace(f"{path}, line {number}: {error}") from None
    if duration_s <= 0 or not 1 <= line.min_slices <= slices or devices < 0 or (devices > 1 and devices % 1):
        raise BadTrace(
            f"{path}, line {number}: the duration must be positive, 1 <= min_slices <= slices, and devices a share of "
            f"one or a whole number"
        )
    return at, line


def _time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text).timestamp()
