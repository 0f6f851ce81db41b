"""Warm-up: golden samples that a server runs before a model counts as loaded, so no caller pays for the first run."""

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from lepton.errors import InvalidArgument
from lepton.golden import DATATYPES, TEXT
from lepton.models import Signature
from services.inference.triton_repository.configuration import ModelConfig, is_batched
from services.inference.triton_repository.options import ServingOptions

FOLDER: Final = "warmup"
"""Below the model's folder: Triton looks for the files of samples there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Warmup:
    """One sample for every input: a row where the model takes batches, else the whole tensor."""

    tensors: tuple[tuple[str, NDArray[Any]], ...] = ()

    @classmethod
    def of(cls, golden: bytes, signature: Signature) -> Self:
        """The first golden sample; none where an input is text. Raises InvalidArgument (GOLDEN_INVALID)."""
        if any(tensor.datatype == TEXT for tensor in signature.inputs):
            return cls()
        try:
            arrays = load(golden)
        except SafetensorError as error:
            raise InvalidArgument("GOLDEN_INVALID", problem=str(error)) from error
        found = []
        for tensor in signature.inputs:
            array = arrays.get(tensor.name)
            if array is None or not array.size or DATATYPES.get(tensor.datatype) != array.dtype:
                problem = f"it holds no tensor {tensor.name} of type {tensor.datatype}"
                raise InvalidArgument("GOLDEN_INVALID", problem=problem)
            found.append((tensor.name, np.ascontiguousarray(array[:1] if is_batched(signature) else array)))
        return cls(tensors=tuple(found))

    def configure(self, config: ModelConfig, options: ServingOptions) -> dict[str, bytes]:
        """Adds the warm-up to a configuration and returns the files that it needs."""
        if not self.tensors or not options.warmup:
            return {}
        sizes = (1,) if not config.max_batch_size else (1, *options.preferred_batches, config.max_batch_size)
        types = {tensor.name: tensor.data_type for tensor in config.input}
        for size in sorted({size for size in sizes if size <= max(1, config.max_batch_size)}):
            added = config.model_warmup.add(name=f"golden_{size}", batch_size=size, count=1)
            for name, array in self.tensors:
                sample = added.inputs[name]
                sample.data_type = types[name]
                sample.dims.extend((array.shape[1:] if config.max_batch_size else array.shape) or (1,))
                sample.input_data_file = name
        return {f"{FOLDER}/{name}": array.tobytes() for name, array in self.tensors}
