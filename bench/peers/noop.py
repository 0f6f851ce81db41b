"""The same no-op jobs on Ray or Dask: `PYTHON noop.py ray|dask COUNT AT_ONCE`, with a Python that has the package.

Prints one JSON object: jobs per second of tasks that start a process each, and of tasks that are a function alone.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def process(_: int) -> int:
    """A job that is one process, started as cheaply as Python can, and its exit status."""
    _, status = os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    return status


def function(_: int) -> int:
    """A job that starts nothing."""
    return 0


def on_ray(count: int, at_once: int) -> dict[str, Any]:
    """Tasks on Ray's own workers, one per CPU of the machine, as it is by default."""
    import ray  # type: ignore[import-not-found]

    ray.init(num_cpus=at_once, include_dashboard=False, log_to_driver=False, logging_level="error")

    def run(job: Callable[[int], int]) -> float:
        remote = ray.remote(job)
        ray.get([remote.remote(at) for at in range(at_once * 4)])  # the workers stand
        began = time.monotonic()
        assert not any(ray.get([remote.remote(at) for at in range(count)]))
        return count / (time.monotonic() - began)

    return {"version": ray.__version__, "process": run(process), "function": run(function)}


def on_dask(count: int, at_once: int) -> dict[str, Any]:
    """Tasks on dask.distributed's worker processes, one per CPU."""
    import distributed  # type: ignore[import-not-found]

    cluster = distributed.LocalCluster(n_workers=at_once, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:

        def run(job: Callable[[int], int]) -> float:
            client.gather(client.map(job, range(-at_once * 4, 0), pure=False))
            began = time.monotonic()
            assert not any(client.gather(client.map(job, range(count), pure=False)))
            return count / (time.monotonic() - began)

        return {"version": distributed.__version__, "process": run(process), "function": run(function)}


if __name__ == "__main__":
    figures = {"ray": on_ray, "dask": on_dask}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(figures))
