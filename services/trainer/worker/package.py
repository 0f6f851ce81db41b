"""Makes the model package of a trained model: weights, golden inputs with its own outputs, signature, lineage."""

import json
from collections.abc import Mapping
from typing import Any, Final

import torch
from safetensors.torch import save

import lepton
from lepton.artifacts import ArtifactStore
from lepton.models import Architecture, ModelPackage, Signature, Tensor
from lepton.models.package import FACTS, GOLDEN, WEIGHTS
from services.trainer.worker.spec import TrainingSpec

_MOST_GOLDEN: Final = 128
_LEAST_GOLDEN: Final = 16
_GOLDEN_BYTES: Final = 4 << 20
_DATATYPES: Final = {torch.float32: "FP32", torch.int64: "INT64"}


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
    output: str = "logits",
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Stores the package of `model`, golden samples taken from `held_out` (inputs, targets); its digest."""
    x, y = held_out
    model = model.to("cpu").eval()
    with torch.no_grad():
        largest = max(x[0].numel(), model(x[:1].to("cpu"))[0].numel())
        count = max(_LEAST_GOLDEN, min(_MOST_GOLDEN, _GOLDEN_BYTES // (4 * largest)))
        x, y = x[:count].to("cpu").contiguous(), y[:count].to("cpu").contiguous()
        answers = model(x).float().contiguous()
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    files = {
        WEIGHTS: store.put_bytes(spec.project, save(weights)),
        GOLDEN: store.put_bytes(spec.project, save({"x": x, output: answers, "y": y})),
    }
    if facts:
        document = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        files[FACTS] = store.put_bytes(spec.project, document.encode())
    package = ModelPackage(
        architecture=architecture,
        files=files,
        signature=Signature(
            inputs=(Tensor(name="x", datatype=_DATATYPES[x.dtype], shape=(-1, *x.shape[1:])),),
            outputs=(Tensor(name=output, datatype="FP32", shape=(-1, *answers.shape[1:])),),
        ),
        metrics=metrics,
        lineage={
            "job": job,
            "dataset": spec.dataset,
            "checkpoint": checkpoint,
            "recipe": spec.recipe,
            "seed": spec.seed,
            "code_version": lepton.__version__,
            **({"initial_model": spec.initial_model} if spec.initial_model else {}),
        },
    )
    return store.put_bytes(spec.project, package.render())
