"""The model behind BentoML: `python serving_bentoml.py MODEL PORT BATCH`; a JSON array in, a JSON array out.

Runs in a Python with bentoml and onnxruntime (requirements-bentoml.txt). One worker; BATCH above 1 is its adaptive
batching.
"""

import os
import sys
from typing import Any

import bentoml  # type: ignore[import-not-found]
import numpy as np
import onnxruntime

_BATCH = int(os.environ.get("BENCH_BATCH", "1"))
_BATCHING: dict[str, Any] = {"batchable": True, "max_batch_size": _BATCH, "max_latency_ms": 1000} if _BATCH > 1 else {}


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Served:
    """One session with one thread."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = os.environ["BENCH_MODEL"]
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @bentoml.api(**_BATCHING)  # type: ignore[untyped-decorator]
    def predict(self, x: np.ndarray) -> np.ndarray:
        answer: Any = self._session.run(None, {"x": x.astype(np.float32)})[0]
        return answer  # type: ignore[no-any-return]


if __name__ == "__main__":
    model, port, batch = sys.argv[1:4]
    os.environ |= {"BENCH_MODEL": model, "BENCH_BATCH": batch, "BENTOML_DO_NOT_TRACK": "1"}
    command = ["-m", "bentoml", "serve", "serving_bentoml:Served", "--host", "127.0.0.1", "--port", port]
    os.chdir(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    os.execv(sys.executable, [sys.executable, *command])
