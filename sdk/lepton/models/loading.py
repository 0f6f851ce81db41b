"""A trained model from its package's files, ready to be asked in this process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from lepton.errors import InvalidArgument
from lepton.models import build
from lepton.models.package import ModelPackage


def load(package: ModelPackage, weights: bytes) -> torch.nn.Module:
    """The model on the CPU, in evaluation mode. `weights` are the bytes of the package's `weights.safetensors`.

    InvalidArgument (MODEL_PACKAGE_INVALID) when they are anything else; nothing is ever unpickled.
    """
    try:
        tensors = load_tensors(weights)
    except SafetensorError as error:
        problem = f"its weights are no safetensors file ({error})"
        raise InvalidArgument("MODEL_PACKAGE_INVALID", problem=problem) from error
    model = build(package.architecture)
    model.load_state_dict(tensors)
    return model.eval()


def outputs(model: torch.nn.Module, inputs: npt.NDArray[Any], datatype: str, *, batch_size: int) -> npt.NDArray[Any]:
    """The model's outputs for N inputs of the signature's datatype (FP32 or INT64), worked off in batches."""
    kind = torch.int64 if datatype == "INT64" else torch.float32
    found: Sequence[npt.NDArray[Any]] = []
    with torch.inference_mode():
        batches = torch.split(torch.from_numpy(np.ascontiguousarray(inputs)), batch_size)
        found = [model(batch.to(kind)).float().numpy() for batch in batches]
    return np.concatenate(found)
