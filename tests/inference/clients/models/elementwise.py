"""Sum and difference of two tensors, of integers or of their decimal texts: NVIDIA's `simple`, `_int8`, `_string`."""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """Answers every request on its own."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._type = triton.triton_string_to_numpy(config["output"][0]["data_type"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        one, other = (triton.get_input_tensor_by_name(request, name).as_numpy() for name in ("INPUT0", "INPUT1"))
        try:
            results = [operation(one.astype(np.int32), other.astype(np.int32)) for operation in (np.add, np.subtract)]
        except ValueError as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error)))
        if self._type is np.object_:
            results = [np.array([str(x).encode() for x in r.ravel()], dtype=object).reshape(r.shape) for r in results]
        named = zip(("OUTPUT0", "OUTPUT1"), results, strict=True)
        return triton.InferenceResponse([triton.Tensor(name, r.astype(self._type)) for name, r in named])
