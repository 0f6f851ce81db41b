"""The naive way to serve a model, as a program of Triton's Python backend: the float module, eager, call by call.

This is what one writes who has a trained module and a Triton: load the weights, `eval()`, `no_grad()`, call the module
for each request, and answer. No export, no batching; one instance and one thread, as the other contenders have. It is
copied into the repository as model.py; torch comes from the environment that the parameter `path` names.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]


class TritonPythonModel:
    """Runs an eager torch module on each request by itself."""

    def initialize(self, args: dict[str, str]) -> None:
        """Builds the module, and loads the weights that lie beside this file."""
        parameters = json.loads(args["model_config"])["parameters"]
        sys.path.extend(json.loads(parameters["path"]["string_value"]))
        import torch
        from safetensors.torch import load_file

        from lepton import models
        from lepton.models import Architecture

        torch.set_num_threads(1)
        self._torch = torch
        folder = Path(args["model_repository"]) / args["model_version"]
        self._module = models.build(Architecture.from_json(json.loads(parameters["architecture"]["string_value"])))
        self._module.load_state_dict(load_file(folder / "weights.safetensors"))
        self._module.eval()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer per request, in order."""
        answers = []
        for request in requests:
            x = np.ascontiguousarray(triton.get_input_tensor_by_name(request, "x").as_numpy())
            with self._torch.no_grad():
                logits = self._module(self._torch.from_numpy(x.copy()))
            answers.append(triton.InferenceResponse([triton.Tensor("logits", logits.numpy())]))
        return answers
