"""Parameter sharing: a frozen trunk computed once for every sample, its features kept for all heads and all epochs.

Each rank computes a share of the samples, and all get all features. So a run of E epochs with K heads evaluates the
trunk once a sample, not E x K times, and only the heads travel between the ranks.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor, nn

from lepton.train.gang import Gang
from lepton.train.rank_session import RankSession
from services.trainer.worker.samples import Rows
from services.trainer.worker.task import Task

_CHUNK: Final = 512
_FEATURES: Final = "features"


@dataclass(frozen=True, slots=True)
class Shared:
    """The features of all samples, as a run computes them or as it has kept them."""

    digest: str  # of the artifact that holds them
    trunk_samples: int  # how many went through the trunk in this run so far

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Shared | None":
        """What a checkpoint's `carried` says; None when it says nothing."""
        return cls(str(state["features"]), int(state["trunk_samples"])) if "features" in state else None


def share_trunk(task: Task, session: RankSession, project: str, kept: Shared | None = None) -> Task:
    """The task of training `output` alone, on the features of the rest; all ranks call it.

    `kept` is what a run that was interrupted has computed already. What varies the inputs in training is left out: it
    would need the trunk again.
    """
    model, gang = task.build(), session.gang
    trunk, head = model[:-1].to(gang.device).eval().requires_grad_(requires_grad=False), _head(model)
    count = 1 + int(max(int(part.max()) for part in _parts(task) if len(part)))
    if kept is not None:
        features = load(session.store.read(project, kept.digest))[_FEATURES]
    else:
        features = _features(trunk, task, gang, count)
        kept = Shared(session.store.put_bytes(project, save({_FEATURES: features})), count)
    state = {name: tensor.clone() for name, tensor in head.state_dict().items()}

    def build() -> nn.Sequential:
        fresh = _head(task.build())
        fresh.load_state_dict(state)
        return fresh

    def whole(trained: nn.Sequential) -> nn.Sequential:
        layers = [*trunk.cpu().named_children(), *trained.named_children()]
        return nn.Sequential(OrderedDict(layers))

    return replace(
        task,
        samples=Rows(features, _targets(task, count)),
        served=task.samples,
        build=build,
        augment=None,
        metrics={**task.metrics, "trunk_samples": float(kept.trunk_samples)},
        carried={**task.carried, "features": kept.digest, "trunk_samples": kept.trunk_samples},
        whole=whole,
    )


def _features(trunk: nn.Module, task: Task, gang: Gang, count: int) -> Tensor:
    rank, ranks = (0, 1) if gang.is_loose else (gang.rank, gang.world_size)  # loose ranks cannot add up
    first, last = count * rank // ranks, count * (rank + 1) // ranks
    with torch.no_grad():
        parts = [
            trunk(task.samples.take(numbers)[0].to(gang.device)).cpu()
            for numbers in torch.split(torch.arange(first, last), _CHUNK)
        ]
    features = torch.zeros(count, *_shape(trunk, task, gang))
    if parts:
        features[first:last] = torch.cat(parts)
    if ranks > 1:
        dist.all_reduce(features)  # each row is 0 on all ranks but one
    return features


def _head(model: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(OrderedDict([list(model.named_children())[-1]]))


def _shape(trunk: nn.Module, task: Task, gang: Gang) -> torch.Size:
    like = task.samples.take(torch.zeros(1, dtype=torch.int64))[0]
    with torch.no_grad():
        probe = torch.as_tensor(trunk(torch.zeros_like(like).to(gang.device)))  # no sample: only its form is wanted
    return probe.shape[1:]


def _targets(task: Task, count: int) -> Tensor:
    return torch.cat([task.samples.take(numbers)[1] for numbers in torch.split(torch.arange(count), 8 * _CHUNK)])


def _parts(task: Task) -> tuple[Tensor, Tensor, Tensor]:
    return task.division.train, task.division.validation, task.division.test
