"""One training script under our agents and under torchrun: started, timed by its own marks, killed and recovered."""

import asyncio
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from lepton.client import AsyncClient
from lepton.trainer.v1.job_pb2 import CodeBundle, Job, Workers
from tests.harness.wait import until

SCRIPT: Final = Path(__file__).parent / "peers" / "ddp.py"
_PATIENCE_S: Final = 180.0
# Without the second, torch 2.13 never recovers with gloo: its restarted workers read the addresses of the dead ones.
_SETTINGS: Final = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A step that a rank has made."""

    step: int
    at: float
    cpu: float
    restarts: int
    pid: int
    rank: int


def marks(folder: Path) -> list[Mark]:
    """All steps so far, of all ranks, in the order of time."""
    found: list[Mark] = []
    for file in folder.glob("*.jsonl"):
        for line in file.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # being written
                found.append(Mark(**json.loads(line)))
    return sorted(found, key=lambda mark: mark.at)


async def until_step(folder: Path, step: int, *, restarts: int = 0) -> None:
    """Returns once some rank has made a step, in this attempt."""
    await until(lambda: any(mark.step >= step and mark.restarts == restarts for mark in marks(folder)), _PATIENCE_S)


async def until_all(folder: Path, ranks: int, *, restarts: int) -> None:
    """Returns once every rank has made a step, in this attempt."""
    await until(lambda: len({mark.rank for mark in marks(folder) if mark.restarts == restarts}) == ranks, _PATIENCE_S)


def first_step(folder: Path, ranks: int, since: float, *, restarts: int = 0) -> float:
    """Seconds from `since` until every rank had made its first step of this attempt."""
    seen: dict[int, float] = {}
    for mark in marks(folder):
        if mark.at > since and mark.restarts == restarts:
            seen.setdefault(mark.rank, mark.at)
    if len(seen) != ranks:
        raise SystemExit(f"{len(seen)} of {ranks} ranks made a step: see {folder}")
    return max(seen.values()) - since


def cpu_to_first_step(folder: Path) -> float:
    """Seconds of CPU that all ranks together had used when each had made its first step."""
    seen: dict[int, float] = {}
    for mark in marks(folder):
        seen.setdefault(mark.rank, mark.cpu)
    return sum(seen.values())


def steps_per_s(folder: Path, *, warm_up: int) -> float:
    """Steps per second of rank 0 behind the first `warm_up`."""
    times = [mark.at for mark in marks(folder) if mark.rank == 0 and mark.step > warm_up]
    return (len(times) - 1) / (times[-1] - times[0])


def cpu_per_step(folder: Path, *, warm_up: int) -> float:
    """Seconds of CPU that all ranks together use for a step, behind the first `warm_up`."""
    by_rank: dict[int, list[Mark]] = {}
    for mark in marks(folder):
        if mark.step > warm_up:
            by_rank.setdefault(mark.rank, []).append(mark)
    return sum((each[-1].cpu - each[0].cpu) / (len(each) - 1) for each in by_rank.values())


class Torchrun:
    """The script under torchrun, as its documentation says to start it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(
        self, ranks: int, marks: Path, arguments: Sequence[str], *, max_restarts: int = 0, script: Path = SCRIPT
    ) -> "Running":
        """Starts it; the time of that is the beginning."""
        marks.mkdir(parents=True)  # noqa: ASYNC240 - nothing else runs
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
            *(f"--max-restarts={max_restarts}", str(script), "--marks", str(marks), *arguments),
        ]
        began = time.monotonic()
        with (self._folder / "torchrun.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, env={**os.environ, **_SETTINGS}, start_new_session=True
            )
        return Running(began=began, process=process)


@dataclass(kw_only=True)
class Running:
    """A run of torchrun."""

    began: float
    process: asyncio.subprocess.Process

    async def end(self) -> None:
        """Waits until it has ended well."""
        if await asyncio.wait_for(self.process.wait(), _PATIENCE_S):
            raise SystemExit("torchrun failed: see its log")

    async def stop(self) -> None:
        """Ends it with all its processes: the workers have sessions of their own, and would outlive it."""
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        await self.process.wait()


class Lepton:
    """The script as a job of a control plane."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._digests: dict[Path, str] = {}
        self._number = 0

    async def start(
        self, ranks: int, marks: Path, arguments: Sequence[str], *, max_restarts: int = 0, script: Path = SCRIPT
    ) -> tuple[float, str]:
        """Submits it; when that began, and the job's name. Its code is uploaded before."""
        marks.mkdir(parents=True)  # noqa: ASYNC240 - nothing else runs
        if script not in self._digests:
            self._digests[script] = (await self._client.artifacts.upload(_archive(script))).digest
        self._number += 1
        argv = ["--marks", str(marks), *arguments]
        bundle = CodeBundle(digest=self._digests[script], entry_point=script.name, argv=argv)
        # More than a rank can use: torchrun's workers are held to no share of the machine either.
        workers = Workers(count=ranks, cpu_milli=2000, memory_bytes=2 << 30)
        job = Job(bundle=bundle, workers=workers, max_restarts=max_restarts)
        began = time.monotonic()
        created = await self._client.jobs.create(f"bench-{self._number}", job)
        return began, created.name

    async def end(self, job: str) -> Job:
        """Waits until it has ended well."""
        ended = await self._client.jobs.wait(job, timeout_s=_PATIENCE_S)
        if ended.state != Job.SUCCEEDED:
            raise SystemExit(f"the job failed: {ended.message} {ended.error}")
        return ended

    async def cancel(self, job: str) -> None:
        """Ends it, however far it is."""
        await self._client.jobs.cancel(job)
        await self._client.jobs.wait(job, timeout_s=_PATIENCE_S)


def _archive(script: Path) -> bytes:
    content, data = script.read_bytes(), io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as bundle:
        info = tarfile.TarInfo(script.name)
        info.size = len(content)
        bundle.addfile(info, io.BytesIO(content))
    return data.getvalue()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Values as they are told: the median, and all of them."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return {"median": round(middle, 4), "all": [round(each, 4) for each in values]}
