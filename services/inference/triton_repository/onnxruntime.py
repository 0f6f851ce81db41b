"""Renders ONNX models for Triton's own onnxruntime backend, which a full Triton has: native code, on GPUs too."""

from collections.abc import Mapping
from typing import Final

from lepton.models import Signature
from lepton.repository import CONFIG, Requirements
from services.inference.triton_repository.configuration import Kind, as_text, configuration, place
from services.inference.triton_repository.options import Engine, ServingOptions
from services.inference.triton_repository.rendering import Rendered
from services.inference.triton_repository.warmup import Warmup

REQUIRES: Final = Requirements(backend="onnxruntime")


def render(
    model: str, versions: Mapping[int, bytes | str], signature: Signature, options: ServingOptions, warmup: Warmup
) -> Rendered:
    """The repository of ONNX files (or their digests) by version. KIND_AUTO: on the server's GPUs if it has any."""
    config = configuration(model, signature, options, sorted(versions))
    config.backend = "onnxruntime"
    place(config, options, Kind.Value("KIND_AUTO"))
    config.parameters["intra_op_thread_count"].string_value = str(options.threads)
    config.parameters["inter_op_thread_count"].string_value = "1"
    samples = warmup.configure(config, options)
    files: dict[str, bytes | str] = {CONFIG: as_text(config), **samples}
    files.update({f"{version}/model.onnx": onnx for version, onnx in versions.items()})
    return Rendered(engine=Engine.ONNXRUNTIME, requires=REQUIRES, files=files)
