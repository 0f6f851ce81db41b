"""Number formats: what the passes compute in, and the scaled loss that fp16 needs."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lepton.errors import InvalidArgument

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FIRST_SCALE: Final = 65536.0
_LAST_SCALE: Final = 2.0**32
_GROWTH_STEPS: Final = 2000


class Precision:
    """The number format of the forward and backward passes; weights and their changes stay in their own."""

    def __init__(self, name: str, device: torch.device) -> None:
        if name not in DTYPES:
            raise InvalidArgument("INVALID_FIELD", fields={"precision": f"is {name!r}; use fp32, bf16 or fp16"})
        if name == "fp16" and device.type == "cpu":
            raise InvalidArgument("INVALID_FIELD", fields={"precision": "fp16 needs a device; use bf16 on a CPU"})
        self.dtype = DTYPES[name]
        self.is_reduced = name != "fp32"
        self.loss_scale = LossScale() if name == "fp16" else None
        self._device = device

    def forward(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        if not self.is_reduced:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.dtype)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss to run backward from."""
        return loss if self.loss_scale is None else loss * self.loss_scale.value


class LossScale:
    """The factor that keeps small fp16 gradients from becoming 0.

    After Micikevicius et al., Mixed Precision Training (2018), with the constants of torch's GradScaler, which itself
    looks at one rank's gradients only and knows no pipeline stages: halved when a gradient overflows (the step is left
    out), doubled after 2000 steps without.
    """

    def __init__(self) -> None:
        self.value = _FIRST_SCALE
        self._steps = 0

    def update(self, *, is_finite: bool) -> None:
        """Takes note of a step's gradients."""
        self._steps = self._steps + 1 if is_finite else 0
        if not is_finite:
            self.value = max(self.value / 2, 1.0)
        elif self._steps == _GROWTH_STEPS:
            self.value, self._steps = min(self.value * 2, _LAST_SCALE), 0

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of it."""
        return {"value": torch.tensor(self.value, dtype=torch.float64), "steps": torch.tensor(self._steps)}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes over what a checkpoint kept."""
        self.value, self._steps = float(state["value"]), int(state["steps"])


def plain(output: Tensor) -> Tensor:
    """The outputs in full and, of reduced precision, in 32 bits: what a loss is computed from."""
    output = output.full_tensor() if isinstance(output, DTensor) else output
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
