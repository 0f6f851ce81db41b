"""Renders ONNX models for the Python backend, which runs ONNX Runtime in its own environment: no Triton lacks it."""

from collections.abc import Mapping
from importlib import resources
from typing import Final

from lepton.models import Signature
from lepton.repository import CONFIG, Requirements
from services.inference.triton_repository import programs
from services.inference.triton_repository.configuration import Kind, as_text, configuration, place
from services.inference.triton_repository.options import Engine, ServingOptions
from services.inference.triton_repository.rendering import Rendered
from services.inference.triton_repository.warmup import Warmup

REQUIRES: Final = Requirements(backend="python", packages={"onnxruntime": ""})


def render(
    model: str, versions: Mapping[int, bytes | str], signature: Signature, options: ServingOptions, warmup: Warmup
) -> Rendered:
    """The repository of ONNX files (or their digests) by version."""
    program = resources.files(programs).joinpath("onnx_model.py").read_bytes()
    config = configuration(model, signature, options, sorted(versions))
    config.backend = "python"
    place(config, options, Kind.Value("KIND_CPU"))
    config.parameters["threads"].string_value = str(options.threads)
    samples = warmup.configure(config, options)
    files: dict[str, bytes | str] = {CONFIG: as_text(config), **samples}
    for version, onnx in versions.items():
        files[f"{version}/model.py"] = program
        files[f"{version}/model.onnx"] = onnx
    return Rendered(engine=Engine.ONNXRUNTIME, requires=REQUIRES, files=files)
