"""One request, many answers: NVIDIA's `repeat_int32`, a decoupled model."""

import time
from typing import Any

import triton_python_backend_utils as triton


class TritonPythonModel:
    """Sends every element of IN as an answer of its own, DELAY milliseconds after the one before."""

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            values, delays = (triton.get_input_tensor_by_name(request, name).as_numpy() for name in ("IN", "DELAY"))
            for at in range(len(values)):
                if request.is_cancelled():
                    break
                time.sleep(delays[at] / 1000)
                sender.send(triton.InferenceResponse([triton.Tensor("OUT", values[at : at + 1])]))
            sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
