"""Keras models on the torch backend, as modules that every training strategy takes. Needs `lepton-sdk[keras]`.

    module = keras_module(lambda: keras.Sequential([keras.layers.Input((8, 8, 1)), ...]))
    part = parallel.strategy(Plan.of_environment(), gang, lambda: module, lambda p: torch.optim.AdamW(p, lr=1e-3))

`KERAS_BACKEND=torch` must be set before keras is imported anywhere; `keras_module` sets it when nobody has.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lepton.errors import FailedPrecondition, InvalidArgument


class KerasModule(nn.Module):
    """A Keras model whose weights have one name each: its variables' paths, `dense/kernel` as `dense_kernel`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._keras = [model]  # in a list, so that torch does not find its weights a second and a third time
        trained = {id(variable) for variable in model.trainable_variables}
        for variable in model.variables:
            name = variable.path.removeprefix(f"{model.name}/").replace("/", "_").replace(".", "_")
            if id(variable) in trained:
                self.register_parameter(name, variable.value)
            elif variable.value.is_floating_point():
                self.register_buffer(name, variable.value.data)

    @property
    def keras(self) -> Any:
        """The Keras model, which shares its weights with this module."""
        return self._keras[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the Keras model gives; dropout and the like follow `train()` and `eval()`."""
        output: torch.Tensor = self._keras[0](x, training=self.training)
        return output


def keras_module(build: Callable[[], Any], *, seed: int = 0) -> KerasModule:
    """The module of the Keras model that `build` makes, equal wherever the seed is; it must know its input's shape.

    FailedPrecondition without keras or with another backend; InvalidArgument when the model is not built.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import keras  # type: ignore[import-untyped]  # heavy, and only who wants it pays
    except ImportError as error:
        raise FailedPrecondition("EXTRA_MISSING", package="keras", extra="keras") from error
    if keras.backend.backend() != "torch":
        raise FailedPrecondition("KERAS_BACKEND_WRONG", backend=keras.backend.backend())
    keras.utils.set_random_seed(seed)
    model = build()
    if not getattr(model, "built", False) or not model.trainable_variables:
        problem = "is not built or has nothing to train; begin it with keras.layers.Input"
        raise InvalidArgument("INVALID_FIELD", fields={"build": problem})
    return KerasModule(model)
