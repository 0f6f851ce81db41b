"""What this machine has and uses: processors, memory, storage, accelerators; real ones, or as configured."""

import asyncio
import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from chassis.logs import logger
from lepton.scheduler.v1 import resources_pb2

log = logger(__name__)

VIRTUAL: Final = "virtual"  # the vendor id of a device that is only declared
_QUERY_S: Final = 20.0


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


def capacity(*, cpu_milli: int, memory_bytes: int, storage: Path) -> resources_pb2.Resources:
    """What the machine has; an amount above zero stands in for the measured one, where agents share a machine."""
    return resources_pb2.Resources(
        cpu_milli=cpu_milli or 1000 * (psutil.cpu_count() or 1),
        memory_bytes=memory_bytes or psutil.virtual_memory().total,
        storage_bytes=psutil.disk_usage(str(storage)).total,
    )


def network_labels() -> dict[str, str]:
    """The machine's fastest network interface, as labels."""
    up = {name: stats for name, stats in psutil.net_if_stats().items() if stats.isup and name != "lo"}
    if not up:
        return {}
    name, stats = max(up.items(), key=lambda item: (item[1].speed, item[0]))
    return {"lepton.dev/network-interface": name, "lepton.dev/network-mbps": str(stats.speed)}


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
