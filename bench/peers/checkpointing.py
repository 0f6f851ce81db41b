"""One rank that checkpoints a sharded state in one way: ours, or one of torch.distributed.checkpoint's.

Started by `bench.checkpoint`; takes a checkpoint for every line that it reads and answers with a line of JSON.
`blocked_s` is how long the call held training up (`blocked_cpu_s` of it on the processor); `slowed_s` is what the
training steps took longer than usual from there until the checkpoint was written.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from lepton.artifacts import ArtifactStore
from lepton.train.checkpoints import Position, Saver, gang_store
from lepton.train.environment import RankEnvironment
from lepton.train.reporter import Reporter

_DCP: Final[Any] = dcp  # it exports its functions without saying so
_TENSOR_BYTES: Final = 4 << 20
_STEPS: Final = 3

Wait = Callable[[], object]


def main() -> None:
    """A checkpoint for every line of standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--mib", type=int, required=True)
    parser.add_argument("--way", choices=["ours", "async_save", "async_save_cached", "save"], required=True)
    arguments = parser.parse_args()
    dist.init_process_group("gloo")
    bench = _Bench(arguments.folder, arguments.mib)
    for line in sys.stdin:
        bench.measure(getattr(bench, arguments.way), int(line))
    dist.barrier()
    os._exit(0)


class _Bench:
    def __init__(self, folder: Path, mib: int) -> None:
        self._rank, self._folder = dist.get_rank(), folder
        count = max(mib * (1 << 20) // _TENSOR_BYTES, 1)
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        self._locals = [torch.full((1024, _TENSOR_BYTES // 4096), float(n)) for n in range(count)]
        self._state: dict[str, Any] = {
            f"layer{n}": DTensor.from_local(local, mesh, [Shard(0)]) for n, local in enumerate(self._locals)
        }
        place = RankEnvironment.parse(os.environ)
        self._saver = Saver(
            ArtifactStore(f"file://{folder}/ours"),
            "bench",
            rank=place.rank,
            world_size=place.world_size,
            reporter=Reporter(None),
            connect=lambda: gang_store(place),
        )
        self._step = 0
        self._stager: Any = None

    def ours(self) -> Wait:
        """session.checkpoint."""
        self._step += 1
        commit = self._saver.save(
            {"model": self._state},
            position=Position(step=self._step, epoch=0, samples=0),
            metrics={},
            config_digest="",
        )
        return lambda: commit.wait(600.0)

    def async_save(self) -> Wait:
        """dcp.async_save as it comes."""
        future: Any = _DCP.async_save(self._state, checkpoint_id=self._folder / "async")
        return lambda: future.result(600.0)

    def async_save_cached(self) -> Wait:
        """dcp.async_save with a stager that keeps its buffers from one checkpoint to the next."""
        if self._stager is None:
            self._stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=False,
                    use_shared_memory=False,
                    use_async_staging=False,
                    use_non_blocking_copy=False,
                )
            )
        saved: Any = _DCP.async_save(self._state, checkpoint_id=self._folder / "cached", async_stager=self._stager)
        return lambda: getattr(saved, "upload_completion", saved).result(600.0)

    def save(self) -> Wait:
        """dcp.save."""
        _DCP.save(self._state, checkpoint_id=self._folder / "sync")
        return lambda: None

    def measure(self, way: Callable[[], Wait], number: int) -> None:
        """One checkpoint between training steps."""
        dist.barrier()
        usual_s = median(self._train() for _ in range(_STEPS))
        dist.barrier()
        began, cpu = time.perf_counter(), time.thread_time()
        wait = way()
        blocked_s, blocked_cpu_s = time.perf_counter() - began, time.thread_time() - cpu
        steps = [self._train() for _ in range(_STEPS)]
        wait()
        written_s = time.perf_counter() - began
        slowed_s = sum(step - usual_s for step in steps)
        self._check(way.__name__)
        dist.barrier()
        if self._rank == 0:
            for folder in ("ours", "async", "cached", "sync"):
                shutil.rmtree(self._folder / folder, ignore_errors=True)
        print(
            json.dumps(
                {
                    "way": way.__name__.strip("_"), "round": number, "rank": self._rank, "blocked_s": blocked_s,
                    "blocked_cpu_s": blocked_cpu_s,
                    "slowed_s": slowed_s, "written_s": written_s, "step_s": usual_s,
                }
            ),
            flush=True,
        )  # fmt: skip
        dist.barrier()

    def _train(self) -> float:
        """Changes every byte of the state, as an optimizer's step does; how long it took."""
        began = time.perf_counter()
        for local in self._locals:
            local.add_(1.0)
        return time.perf_counter() - began

    def _check(self, way: str) -> None:
        """Something of the right size lies there."""
        folder = (
            self._folder / {"ours": "ours", "async_save": "async", "async_save_cached": "cached", "save": "sync"}[way]
        )
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        expected = dist.get_world_size() * sum(local.nbytes for local in self._locals)
        if size < expected:
            raise RuntimeError(f"{way} has written {size} bytes of {expected}")


if __name__ == "__main__":
    main()
