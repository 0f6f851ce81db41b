"""Owns the run of one ONNX model inside Triton's Python stub: this file is copied into every repository as model.py.

It runs in the stub's own environment (numpy 1.26, onnxruntime), so it imports nothing of Lepton.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton  # type: ignore[import-not-found]


class TritonPythonModel:
    """Joins the requests of one batch, runs the session once, and gives every request its rows."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model that lies beside this file."""
        config = json.loads(args["model_config"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._is_batched = config["max_batch_size"] > 0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["threads"]["string_value"])
        options.inter_op_num_threads = 1
        model = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer per request, in order; a failure belongs to the requests that were run together."""
        inputs = [[triton.get_input_tensor_by_name(r, name).as_numpy() for name in self._inputs] for r in requests]
        answers: list[Any] = [None] * len(requests)
        for group in self._groups(inputs):
            try:
                results = self._run([inputs[index] for index in group])
            except Exception as error:  # noqa: BLE001 (whatever the runtime raises is the answer to these requests)
                results = [triton.InferenceResponse(error=triton.TritonError(str(error))) for _ in group]
            for index, result in zip(group, results, strict=True):
                answers[index] = result
        return answers

    def _groups(self, inputs: list[list[Any]]) -> list[list[int]]:
        """Requests that can run as one: all rows of the same shapes."""
        if not self._is_batched:
            return [[index] for index in range(len(inputs))]
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, arrays in enumerate(inputs):
            groups.setdefault(tuple(array.shape[1:] for array in arrays), []).append(index)
        return list(groups.values())

    def _run(self, inputs: list[list[Any]]) -> list[Any]:
        joined = inputs[0] if len(inputs) == 1 else [np.concatenate(column) for column in zip(*inputs, strict=True)]
        outputs = self._session.run(self._outputs, dict(zip(self._inputs, joined, strict=True)))
        if len(inputs) == 1:
            return [self._response(outputs)]
        ends = np.cumsum([len(arrays[0]) for arrays in inputs])[:-1]
        pieces = [np.split(output, ends) for output in outputs]
        return [self._response(rows) for rows in zip(*pieces, strict=True)]

    def _response(self, outputs: Any) -> Any:
        tensors = [triton.Tensor(name, value) for name, value in zip(self._outputs, outputs, strict=True)]
        return triton.InferenceResponse(tensors)
