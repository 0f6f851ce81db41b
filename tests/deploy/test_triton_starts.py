"""The unpacked tritonserver really serves a Python model from its own environment."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from deploy import tools
from tests.harness.ports import free_ports
from tests.harness.wait import until

pytestmark = pytest.mark.integration

CONFIG = """
backend: "python"
max_batch_size: 0
input [{name: "x" data_type: TYPE_FP32 dims: [-1]}]
output [{name: "y" data_type: TYPE_FP32 dims: [-1]}]
"""
MODEL = """
import numpy, onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        assert numpy.__version__ == "1.26.4"
        inputs = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [triton.InferenceResponse([triton.Tensor("y", 2 * x)]) for x in inputs]
"""


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    version = tmp_path / "models/double/1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    triton, (port,) = tools.triton(), free_ports(1)
    arguments = [
        f"--model-repository={tmp_path / 'models'}",
        f"--backend-directory={triton.backends}",
        "--model-control-mode=explicit",
        "--load-model=double",
        "--disable-auto-complete-config",
        "--strict-readiness=false",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        f"--backend-config=python,shm-region-prefix-name=lepton-test-{port}",
    ]
    with (tmp_path / "triton.log").open("w") as log:
        server = subprocess.Popen([triton.server, *arguments], env=triton.environment(), stdout=log, stderr=log)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


async def test_a_python_model_answers_with_real_numbers(endpoint: str) -> None:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        await until(lambda: channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY, 30)
    with InferenceServerClient(endpoint) as client:
        x = InferInput("x", [3], "FP32")
        x.set_data_from_numpy(np.array([1, 2, 3], dtype=np.float32))
        assert client.infer("double", [x]).as_numpy("y").tolist() == [2.0, 4.0, 6.0]
