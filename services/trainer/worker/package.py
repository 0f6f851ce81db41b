"""Makes the model package of a trained classifier: weights, golden inputs with its own outputs, signature, lineage."""

from collections.abc import Mapping
from typing import Final

import torch
from safetensors.torch import save

import lepton
from lepton.artifacts import ArtifactStore
from lepton.models import Architecture, ModelPackage, Signature, Tensor
from lepton.models.package import GOLDEN, WEIGHTS
from services.trainer.worker.spec import TrainingSpec

_MOST_GOLDEN: Final = 128
_LEAST_GOLDEN: Final = 16
_GOLDEN_BYTES: Final = 4 << 20


def store_package(
    store: ArtifactStore,
    spec: TrainingSpec,
    model: torch.nn.Module,
    held_out: tuple[torch.Tensor, torch.Tensor],
    *,
    architecture: Architecture,
    metrics: Mapping[str, float],
    job: str,
    checkpoint: str,
) -> str:
    """Stores the package of `model`, golden samples taken from `held_out` (images, labels); its digest."""
    x, y = held_out
    count = max(_LEAST_GOLDEN, min(_MOST_GOLDEN, _GOLDEN_BYTES // (4 * x[0].numel())))
    x, y = x[:count].to("cpu", torch.float32).contiguous(), y[:count].to("cpu").contiguous()
    model = model.to("cpu").eval()
    with torch.no_grad():
        logits = model(x)
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    package = ModelPackage(
        architecture=architecture,
        files={
            WEIGHTS: store.put_bytes(spec.project, save(weights)),
            GOLDEN: store.put_bytes(spec.project, save({"x": x, "logits": logits.contiguous(), "y": y})),
        },
        signature=Signature(
            inputs=(Tensor(name="x", datatype="FP32", shape=(-1, *x.shape[1:])),),
            outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, logits.shape[1])),),
        ),
        metrics=metrics,
        lineage={
            "job": job,
            "dataset": spec.dataset,
            "checkpoint": checkpoint,
            "recipe": spec.recipe,
            "seed": spec.seed,
            "code_version": lepton.__version__,
        },
    )
    return store.put_bytes(spec.project, package.render())
