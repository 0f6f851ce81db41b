"""Sequences: NVIDIA's `simple_sequence` and `simple_dyna_sequence`.

Both add 1 at a sequence's start; where the scheduler tells the sequence's id, the last answer adds it.
"""

from typing import Any

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """Answers every request on its own."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [triton.InferenceResponse([triton.Tensor("OUTPUT", self._answer(one))]) for one in requests]

    def _answer(self, request: Any) -> Any:
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        answer = given["INPUT"] + np.int32(given["START"].ravel()[0])
        if "CORRID" in given and given["END"].ravel()[0]:
            answer += np.int32(given["CORRID"].ravel()[0])
        return answer
