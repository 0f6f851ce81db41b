"""The model behind Ray Serve, HAProxy in front: `python serving_ray.py MODEL PORT BATCH`; raw float32 in and out.

Runs in a Python with `ray[serve]` and onnxruntime (requirements-ray.txt), with RAY_SERVE_ENABLE_HA_PROXY=1 and
RAY_SERVE_THROUGHPUT_OPTIMIZED=1. BATCH 1 answers each request on its own; more joins requests with `serve.batch`.
"""

import os
import signal
import sys
from typing import Any

import numpy as np
import onnxruntime
import ray  # type: ignore[import-not-found]
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

MODEL, PORT, BATCH = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


@serve.deployment(num_replicas=1, max_ongoing_requests=512, ray_actor_options={"num_cpus": 0.5})
class Served:
    """One replica: one session with one thread."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])

    def _run(self, x: Any) -> Any:
        return self._session.run(None, {"x": x})[0]

    @serve.batch(max_batch_size=max(BATCH, 1), batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def _batched(self, rows: list[bytes]) -> list[bytes]:
        x = np.frombuffer(b"".join(rows), np.float32).reshape(-1, 1, 8, 8)
        return [row.tobytes() for row in self._run(x)]

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        if BATCH > 1:
            answer = await self._batched(body)
        else:
            answer = self._run(np.frombuffer(body, np.float32).reshape(-1, 1, 8, 8)).tobytes()
        return Response(answer, media_type="application/octet-stream")


def main() -> None:
    ray.init(num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Served.bind(), route_prefix="/")  # type: ignore[attr-defined]
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
