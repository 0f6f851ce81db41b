"""What this machine has and uses: processors, memory, storage, accelerators; real ones, or as configured."""

import asyncio
import csv
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from chassis.logs import logger
from lepton.scheduler.v1 import resources_pb2
from services.agent.process_tree import tree

log = logger(__name__)

VIRTUAL: Final = "virtual"  # the vendor id of a device that is only declared
_QUERY_S: Final = 20.0
_MEASURE_EVERY_S: Final = 5.0  # looking through all processes costs milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What is in use now."""

    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A device that the configuration declares, for machines without one."""

    model: str
    memory_bytes: int = 0


class UsageMeter:
    """Measures use since the last question."""

    def __init__(self) -> None:
        self._cores = psutil.cpu_count() or 1
        psutil.cpu_percent()  # the first answer means nothing

    def __call__(self) -> Usage:
        """The use of the whole machine."""
        memory = psutil.virtual_memory()
        return Usage(
            cpu_milli=int(psutil.cpu_percent() * 10 * self._cores), memory_bytes=memory.total - memory.available
        )


class TreeMeter:
    """Measures what this process and all that it has started use, where several agents share a machine."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pid = os.getpid()
        self._spent_s: dict[tuple[int, float], float] = {}  # pid and its start -> processor time so far
        self._usage = Usage(cpu_milli=0, memory_bytes=0)
        self._measured_s = float("-inf")
        self()

    def __call__(self) -> Usage:
        """The use since the last measurement, which is made every few seconds only."""
        now_s = self._clock()
        elapsed_s = now_s - self._measured_s
        if elapsed_s < _MEASURE_EVERY_S:
            return self._usage
        spent_s: dict[tuple[int, float], float] = {}
        memory_bytes = 0
        for pid in tree(self._pid):
            try:
                process = psutil.Process(pid)
                with process.oneshot():
                    times = process.cpu_times()
                    spent_s[process.pid, process.create_time()] = times.user + times.system
                    memory_bytes += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        used_s = sum(after - self._spent_s.get(process, 0.0) for process, after in spent_s.items())
        is_first = not self._spent_s
        self._spent_s, self._measured_s = spent_s, now_s
        self._usage = Usage(cpu_milli=0 if is_first else int(1000 * used_s / elapsed_s), memory_bytes=memory_bytes)
        return self._usage


def capacity(
    *, cpu_milli: int, memory_bytes: int, storage_bytes: int, network_mbps: int, storage: Path
) -> resources_pb2.Resources:
    """What the machine has; an amount above zero stands in for the measured one, where agents share a machine."""
    return resources_pb2.Resources(
        cpu_milli=cpu_milli or 1000 * (psutil.cpu_count() or 1),
        memory_bytes=memory_bytes or psutil.virtual_memory().total,
        storage_bytes=storage_bytes or psutil.disk_usage(str(storage)).total,
        network_mbps=network_mbps or fastest_interface()[1],
    )


def fastest_interface() -> tuple[str, int]:
    """The machine's fastest network interface and its megabits per second; 0 where it does not say."""
    up = {name: stats.speed for name, stats in psutil.net_if_stats().items() if stats.isup and name != "lo"}
    return max(
        ((name, max(0, speed)) for name, speed in up.items()), key=lambda each: (each[1], each[0]), default=("", 0)
    )


def machine_labels() -> dict[str, str]:
    """What the machine tells of itself."""
    labels = {"lepton.dev/hostname": socket.gethostname(), "lepton.dev/network-interface": fastest_interface()[0]}
    return {key: value for key, value in labels.items() if value}


async def devices(declared: Sequence[Declared]) -> list[resources_pb2.Device]:
    """The accelerators: the declared ones if there are any, else those that nvidia-smi finds."""
    if declared:
        return [
            resources_pb2.Device(
                index=index, model=device.model, memory_bytes=device.memory_bytes, uuid=f"{VIRTUAL}-{index}"
            )
            for index, device in enumerate(declared)
        ]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = await asyncio.create_subprocess_exec(
        program,
        "--query-gpu=index,name,memory.total,uuid",
        "--format=csv,noheader,nounits",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_QUERY_S):
            output, _ = await query.communicate()
    except TimeoutError:
        query.kill()
        await query.wait()
        log.error("nvidia-smi does not answer; the node has no accelerators")
        return []
    if query.returncode != 0:
        log.error("nvidia-smi failed; the node has no accelerators", code=query.returncode)
        return []
    return read_query(output.decode())


def read_query(output: str) -> list[resources_pb2.Device]:
    """The devices in nvidia-smi's answer."""
    rows = [[field.strip() for field in row] for row in csv.reader(output.splitlines()) if len(row) == 4]
    return [
        resources_pb2.Device(
            index=int(index), model=name.removeprefix("NVIDIA "), memory_bytes=_mebibytes(memory), uuid=uuid
        )
        for index, name, memory, uuid in rows
    ]


def _mebibytes(text: str) -> int:
    return int(text) << 20 if text.isdecimal() else 0  # "[N/A]" where memory is shared with the host
