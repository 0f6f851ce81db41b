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
        self._ranks = [1 + _dimensions(tensor) for tensor in config["input"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["threads"]["string_value"])
        options.inter_op_num_threads = 1
        model = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer per request, in order; nobody's bad request fails those that it was joined with."""
        answers: list[Any] = [None] * len(requests)
        inputs: dict[int, list[Any]] = {}
        for index, request in enumerate(requests):
            try:
                inputs[index] = self._read(request)
            except ValueError as error:
                answers[index] = _refusal(str(error))
        for group in self._groups(inputs):
            for index, answer in zip(group, self._tried([inputs[index] for index in group]), strict=True):
                answers[index] = answer
        return answers

    def _read(self, request: Any) -> list[Any]:
        arrays = [_array(triton.get_input_tensor_by_name(request, name)) for name in self._inputs]
        # Triton takes the rows modulo 2^32, and a request without rows for one of a model without batches.
        if self._is_batched and any(a.ndim != rank for a, rank in zip(arrays, self._ranks, strict=True)):
            raise ValueError("the number of rows, the first dimension of every input, must be 1 or more")
        return arrays

    def _tried(self, inputs: list[list[Any]]) -> list[Any]:
        """The answers to requests that are run together; where that fails, of each alone."""
        try:
            return self._run(inputs)
        except Exception as error:  # noqa: BLE001 (whatever the runtime raises, the server goes on)
            if len(inputs) > 1:
                return [self._tried([one])[0] for one in inputs]
            # The runtime's own words are for who runs the server; who calls it learns what it was about.
            triton.Logger.log_warn(f"refused: {error}")
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in zip(self._inputs, inputs[0], strict=True))
            return [_refusal(f"the model cannot be run with these inputs; check shapes and values: {shapes}")]

    def _groups(self, inputs: dict[int, list[Any]]) -> list[list[int]]:
        """Requests that can run as one: all rows of the same shapes."""
        if not self._is_batched:
            return [[index] for index in inputs]
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, arrays in inputs.items():
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


def _array(tensor: Any) -> Any:
    """The tensor as the runtime takes it: texts decoded."""
    array = tensor.as_numpy()
    if array.dtype != object:
        return array
    try:
        return np.array([text.decode() for text in array.ravel()], object).reshape(array.shape)
    except UnicodeDecodeError:
        raise ValueError(f"the texts of {tensor.name()} must be UTF-8") from None


def _dimensions(tensor: dict[str, Any]) -> int:
    """Of one row: what the configuration says that the model gets, which need not be what callers send."""
    reshape = tensor.get("reshape")
    return len(tensor["dims"] if reshape is None else reshape.get("shape", ()))


def _refusal(problem: str) -> Any:
    return triton.InferenceResponse(error=triton.TritonError(problem, triton.TritonError.INVALID_ARG))
