"""Renders TensorRT plans: served only where device class and TensorRT are the very ones that built the plan."""

from lepton.models import Signature
from lepton.repository import CONFIG, Requirements
from services.inference.triton_repository.configuration import (
    OWN_VERSION,
    Kind,
    as_text,
    configuration,
    is_batched,
    place,
)
from services.inference.triton_repository.engines import BuiltEngine
from services.inference.triton_repository.options import Engine, ServingOptions
from services.inference.triton_repository.rendering import Rendered
from services.inference.triton_repository.warmup import Warmup


def render(
    model: str,
    engine: BuiltEngine,
    signature: Signature,
    options: ServingOptions,
    warmup: Warmup,
    version: int = OWN_VERSION,
) -> Rendered:
    """The repository of one plan.

    Batches stop at the largest that a profile allows, and the sizes that the profiles are tuned for are preferred
    unless the options name others. Every copy of the model has all profiles, so Triton takes the one that fits each
    batch best. A plan with fixed batches of one size records its kernels once as a CUDA graph.
    """
    options = engine.fit(options)
    config = configuration(model, signature, options, [version])
    config.backend = "tensorrt"
    config.platform = "tensorrt_plan"
    place(config, options, Kind.Value("KIND_GPU"), profiles=[str(at) for at in range(len(engine.profiles))])
    config.optimization.cuda.graphs = is_batched(signature)
    samples = warmup.configure(config, options)
    files: dict[str, bytes | str] = {CONFIG: as_text(config), **samples, f"{version}/model.plan": engine.file}
    requires = Requirements(
        backend="tensorrt", device=engine.key.device, tensorrt=".".join(engine.key.version.split(".")[:3])
    )
    return Rendered(engine=Engine.TENSORRT, key=str(engine.key), requires=requires, files=files)
