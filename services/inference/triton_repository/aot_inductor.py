"""Renders AOTInductor packages (torch.export, compiled ahead of time) for the Python backend with torch.

A full Triton's pytorch backend runs them too (`platform: "torch_aoti"`), but under tensor names of its own
(INPUT__0, ...): clients would have to know what runs the model, so the Python backend is what is rendered.
"""

from importlib import resources

from lepton.models import Signature
from lepton.repository import CONFIG, CPU, Requirements
from services.inference.triton_repository import programs
from services.inference.triton_repository.configuration import OWN_VERSION, Kind, as_text, configuration, place
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
    """The repository of one AOTInductor package."""
    options, is_cpu = engine.fit(options), engine.key.device.startswith(f"{CPU}-")
    config = configuration(model, signature, options, [version])
    config.backend = "python"
    place(config, options, Kind.Value("KIND_CPU" if is_cpu else "KIND_GPU"))
    config.parameters["threads"].string_value = str(options.threads)
    config.parameters["device"].string_value = "cpu" if is_cpu else "cuda"
    # Else every tensor of a GPU's model passes through CUDA shared memory between server and stub; ours come by gRPC.
    config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "yes"
    samples = warmup.configure(config, options)
    files: dict[str, bytes | str] = {
        CONFIG: as_text(config),
        **samples,
        f"{version}/model.py": resources.files(programs).joinpath("aot_inductor_model.py").read_bytes(),
        f"{version}/model.pt2": engine.file,
    }
    requires = Requirements(
        backend="python", packages={"torch": _release(engine.key.version)}, device=engine.key.device
    )
    return Rendered(engine=Engine.AOT_INDUCTOR, key=str(engine.key), requires=requires, files=files)


def _release(version: str) -> str:
    """`2.13.0` of `torch-2.13.0+cu130`: the build's own part of it is not told by a package's folder."""
    return version.removeprefix("torch-").partition("+")[0]
