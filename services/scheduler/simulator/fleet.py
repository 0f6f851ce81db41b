"""Fleets of nodes that are alike, and how many of them a load needs."""

from collections.abc import Iterable
from math import ceil
from typing import Final

from services.scheduler.simulator.job import WHOLE, Job
from services.scheduler.snapshot import Device, Node

_CPU: Final = 8  # cores per device


def nodes(count: int, devices: int, *, pool: str, cpu: int | None = None, memory_gib: int = 1024) -> tuple[Node, ...]:
    """So many nodes with so many devices each; with 8 cores for each device if nothing else is said."""
    return tuple(
        Node(
            name=f"{pool}/nodes/n{number:05}",
            pool=pool,
            session=f"n{number:05}-1",
            cpu_milli=1000 * (_CPU * devices if cpu is None else cpu),
            memory_bytes=memory_gib << 30,
            devices=tuple(Device(index=at) for at in range(devices)),
        )
        for number in range(count)
    )


def count_for(jobs: Iterable[Job], devices: int, load: float) -> int:
    """How many nodes make the jobs' work, over the time in which they are submitted, this part of what there is.

    At least as many as the largest job needs.
    """
    jobs = tuple(jobs)
    span_s = max((job.at for job in jobs), default=0.0) - min((job.at for job in jobs), default=0.0)
    work = sum(job.work_s * job.device_milli / WHOLE for job in jobs)
    largest = max((ceil(job.device_milli / WHOLE / devices) for job in jobs), default=1)
    return max(largest, ceil(work / (max(span_s, 1.0) * load * devices)), 1)
