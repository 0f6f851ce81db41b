"""What the launcher imports ahead of its ranks: nothing here may start a thread or touch a GPU."""

import gc
import importlib
from pathlib import Path
from typing import Final

MODULES: Final = (
    "numpy",
    "torch",
    "torch._dynamo",
    "torch.optim",
    "torch.distributed",
    "torch.nn.parallel.distributed",
    "safetensors.numpy",
    "safetensors.torch",
    "fsspec.implementations.local",
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",  # imported, never instantiated before the fork
    "lepton.otlp",
    "lepton.train.parallel",
    "lepton.train.rank_session",
    "lepton.models.image_classifier",
    "lepton.train.prefetch",
    "services.trainer.worker.loop",
    "services.trainer.worker.package",
    "services.trainer.worker.recipes.image_classifier",
    "services.trainer.worker.recipes.text_classifier",
    "services.trainer.worker.recipes.language_model",
    "services.trainer.worker.recipes.forecaster",
    "services.trainer.worker.recipes.recommender",
    "services.trainer.worker.recipes.risk_model",
)


def warm_up() -> None:
    """Imports everything and checks that the process can still be forked safely."""
    for module in MODULES:
        importlib.import_module(module)
    if threads() != 1:
        raise RuntimeError(
            f"the launcher has {threads()} threads after its imports; it must have one to be forked safely"
        )
    gc.collect()
    gc.freeze()  # keeps the collector from copying the shared pages in every rank


def threads() -> int:
    """How many threads this process has."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())
