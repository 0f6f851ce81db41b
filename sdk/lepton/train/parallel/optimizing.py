"""The optimizer of what a rank holds: stepping, and its state by the names of the parameters."""

from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lepton.train.parallel import gradients
from lepton.train.parallel.precision import Precision

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class Optimizing:
    """An optimizer over named parameters, each whole or cut over ranks; frozen ones are left out."""

    def __init__(
        self,
        named: Mapping[str, nn.Parameter],
        make: MakeOptimizer,
        precision: Precision,
        *,
        device: torch.device,
        pipeline: dist.ProcessGroup | None = None,
        counted_elsewhere: frozenset[str] = frozenset(),
    ) -> None:
        """`pipeline`: the ranks that hold the other stages; of `counted_elsewhere` another stage holds the same."""
        self.named = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        self._optimizer = make(list(self.named.values())) if self.named else None
        self._precision, self._device, self._pipeline = precision, device, pipeline
        self._counted = [parameter for name, parameter in self.named.items() if name not in counted_elsewhere]
        if self._optimizer is not None:
            _divide_groups(self._optimizer)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(self.named.values())

    def step(self, *, learning_rate: float, clip_norm: float = 0.0) -> None:
        """One step from the gradients at hand, which are gone afterwards. Overflowed gradients make none."""
        scaler = self._precision.loss_scale
        if scaler is not None:
            gradients.scale(self.parameters, 1.0 / scaler.value)
        is_finite = True
        if clip_norm > 0 or scaler is not None:
            norm = gradients.norm(self._counted, pipeline=self._pipeline, device=self._device)
            if scaler is not None:
                is_finite = bool(torch.isfinite(norm))
                scaler.update(is_finite=is_finite)
            if clip_norm > 0:
                gradients.scale(self.parameters, torch.clamp(clip_norm / (norm + 1e-6), max=1.0))
        if self._optimizer is not None:
            if is_finite:
                for group in self._optimizer.param_groups:
                    group["lr"] = learning_rate
                self._optimizer.step()
            self._optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """{"state": {name: {..}}}: torch.distributed.checkpoint's form, without the settings, which the job holds."""
        state: dict[str, Any] = {"state": {}}
        if self._optimizer is not None:
            names: dict[Tensor, str] = {parameter: name for name, parameter in self.named.items()}
            state["state"] = {names[parameter]: dict(kept) for parameter, kept in self._optimizer.state.items()}
        if self._precision.loss_scale is not None:
            state["loss_scale"] = self._precision.loss_scale.state()
        return state

    def template(self, paths: Set[str]) -> dict[str, Any]:
        """What there is here to load into of what was saved under these paths (keys joined by `/`); {} if nothing."""
        self._prepare()
        mine = self.state()
        found: dict[str, Any] = {}
        for name, kept in mine["state"].items():
            there = {key: value for key, value in kept.items() if f"state/{name}/{key}" in paths}
            if there:
                found[name] = there
        template: dict[str, Any] = {"state": found} if found else {}
        if "loss_scale" in mine and "loss_scale/value" in paths:
            template["loss_scale"] = mine["loss_scale"]
        return template

    def loaded(self, template: Mapping[str, Any]) -> None:
        """Finishes a load into the template: what the saved state knows nothing of begins anew."""
        for name, parameter in self.named.items():
            assert self._optimizer is not None
            if name not in template.get("state", {}):
                self._optimizer.state.pop(parameter, None)
        if self._precision.loss_scale is not None and "loss_scale" in template:
            self._precision.loss_scale.load(template["loss_scale"])

    def _prepare(self) -> None:
        # An optimizer makes its state in its first step. That step is made here with nothing to move by.
        if self._optimizer is None or self._optimizer.state:
            return
        rates = [group["lr"] for group in self._optimizer.param_groups]
        for parameter in self.named.values():
            parameter.grad = torch.zeros_like(parameter)
        for group in self._optimizer.param_groups:
            group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], Tensor) else 0.0
        self._optimizer.step()
        self._optimizer.zero_grad()
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _divide_groups(optimizer: Optimizer) -> None:
    """One group for each way of being cut: torch's joint (foreach) steps take tensors of one kind only."""
    for group in list(optimizer.param_groups):
        kinds: dict[object, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            kinds.setdefault(parameter.device_mesh if isinstance(parameter, DTensor) else None, []).append(parameter)
        first, *others = kinds.values()
        group["params"] = first
        for others_of_kind in others:
            optimizer.param_groups.append({**group, "params": others_of_kind})
