"""Jobs in the shape of Microsoft's Philly trace: read from its file, or made up from a seed."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from math import gcd
from pathlib import Path
from typing import Final

import numpy as np

from services.scheduler.simulator.job import WHOLE, Job
from services.scheduler.snapshot import Demand, Group, Kind, Workload

POOL: Final = "pools/philly"
_CPU_MILLI: Final = 4000  # per device
# As in the trace: sizes and their frequency in 10,000, and the share of the virtual clusters in the jobs.
_SIZES: Final = {1: 9317, 2: 221, 4: 227, 8: 200, 12: 1, 16: 24, 24: 1, 32: 8, 64: 1}
_CLUSTERS: Final = (50, 20, 12, 9, 2, 2, 2, 1, 1, 1)
# Quantiles of the duration in seconds; in between, evenly on a logarithmic scale.
_DURATIONS: Final = (
    (0.0, 1.0),
    (0.01, 17.0),
    (0.1, 61.0),
    (0.25, 115.0),
    (0.5, 1144.0),
    (0.75, 2932.0),
    (0.9, 11266.0),
    (0.95, 43648.0),
    (0.99, 254884.0),
    (0.999, 1186475.0),
    (1.0, 4628226.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the trace."""

    at: float  # seconds since the first submission
    duration_s: float
    devices: int
    cluster: str  # the virtual cluster


def read(path: Path, limit: int | None = None) -> tuple[Row, ...]:
    """The trace's jobs in the order of their submission, of those the first `limit`."""
    with path.open(newline="") as file:
        lines = [
            (
                datetime.fromisoformat(line["timestamp"]),
                number,
                float(line["duration"]),
                int(line["num_gpus"]),
                line["cluster"],
            )
            for number, line in enumerate(csv.DictReader(file))
        ]
    lines.sort()
    return tuple(
        Row(at=(at - lines[0][0]).total_seconds(), duration_s=duration_s, devices=devices, cluster=cluster)
        for at, _, duration_s, devices, cluster in lines[:limit]
    )


def generate(count: int, seed: int, *, span_s: float, max_devices: int = 128) -> tuple[Row, ...]:
    """Made-up jobs with the trace's sizes, durations and clusters, and arrivals that come by day and in bursts.

    None runs for longer than half of the time in which they come, so that few jobs make a load too.
    """
    random = np.random.default_rng(seed)
    sizes = [size for size in _SIZES if size <= max_devices]
    frequency = np.array([_SIZES[size] for size in sizes], dtype=float)
    devices = random.choice(sizes, size=count, p=frequency / frequency.sum())
    parts, seconds = zip(*_DURATIONS, strict=True)
    durations = np.minimum(np.exp(np.interp(random.random(count), parts, np.log(seconds))), span_s / 2)
    clusters = random.choice(len(_CLUSTERS), size=count, p=np.array(_CLUSTERS) / sum(_CLUSTERS))
    ats = np.sort(_arrivals(random, count, span_s))
    return tuple(
        Row(
            at=round(float(at), 3),
            duration_s=round(float(duration_s), 3),
            devices=int(size),
            cluster=f"vc{int(cluster):02}",
        )
        for at, duration_s, size, cluster in zip(ats, durations, devices, clusters, strict=True)
    )


def _arrivals(random: np.random.Generator, count: int, span_s: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Two thirds alone, more by day than by night; a third in bursts of about twenty within minutes."""
    days = random.random(count) * span_s
    phase = 2 * np.pi * days / 86400
    days += 86400 / (2 * np.pi) * 0.6 * np.sin(phase)  # denser about noon
    bursts = random.random(max(1, count // 60)) * span_s
    burst = bursts[random.integers(len(bursts), size=count)] + random.exponential(120.0, size=count)
    is_burst = random.random(count) < 1 / 3
    chosen: np.ndarray[tuple[int], np.dtype[np.float64]] = np.clip(np.where(is_burst, burst, days), 0.0, span_s)
    return chosen - chosen.min() if count else chosen


def jobs(rows: Iterable[Row], *, per_node: int, knows_duration: bool) -> Iterator[Job]:
    """The jobs of a trace. A gang's slices have the most devices that divide it and fit a node.

    `knows_duration`: whether the planner is told how long each will run.
    """
    for number, row in enumerate(rows):
        size = gcd(row.devices, per_node) if row.devices > per_node else row.devices
        demand = Demand(device_milli=size * WHOLE, cpu_milli=size * _CPU_MILLI)
        count = row.devices // size
        yield Job(
            at=row.at,
            work_s=max(row.duration_s, 1.0),
            workload=Workload(
                name=f"projects/{row.cluster}/workloads/j{number:06}",
                kind=Kind.TRAINING,
                groups=(Group(name="worker", min_count=count, max_count=count, demand=demand, program=b"philly"),),
                pools=(POOL,),
                expected_duration_s=max(row.duration_s, 1.0) if knows_duration else 0.0,
            ),
        )
