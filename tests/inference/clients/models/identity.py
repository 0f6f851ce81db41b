"""Gives every input back: NVIDIA's `simple_identity`, and the `identity_*` models of perf_analyzer's users."""

from typing import Any

import triton_python_backend_utils as triton


class TritonPythonModel:
    """INPUT<n> becomes OUTPUT<n>."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [
            triton.InferenceResponse([triton.Tensor(x.name().replace("IN", "OUT", 1), x.as_numpy()) for x in one])
            for one in (request.inputs() for request in requests)
        ]
