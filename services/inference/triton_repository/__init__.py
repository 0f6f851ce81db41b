"""Owns Triton repositories: the configuration of a model, the program that runs it and its files, all written by us.

Nobody else's configuration is ever loaded: it can name a backend, a library or a program, and loading it runs code.
"""

from lepton.models import Signature
from lepton.repository import CONFIG
from services.inference.triton_repository import onnxruntime_python
from services.inference.triton_repository.configuration import OWN_VERSION
from services.inference.triton_repository.options import ServingOptions
from services.inference.triton_repository.warmup import Warmup

__all__ = ["CONFIG", "ServingOptions", "render", "render_config"]


def render(model: str, onnx: bytes, signature: Signature, options: ServingOptions | None = None) -> dict[str, bytes]:
    """The repository's files by path below the model's own folder, the one that carries `model` as its name.

    The form that every Triton can run: ONNX Runtime in the Python backend, one version, no warm-up.
    """
    rendered = onnxruntime_python.render(model, {OWN_VERSION: onnx}, signature, options or ServingOptions(), Warmup())
    return {path: content for path, content in rendered.files.items() if isinstance(content, bytes)}


def render_config(model: str, signature: Signature, options: ServingOptions) -> str:
    """The text of the configuration that `render` writes."""
    return render(model, b"", signature, options)[CONFIG].decode()
