"""Which forms of a model a deployment's nodes may choose from, best first; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from lepton.errors import InvalidArgument
from lepton.models import Signature
from services.inference.compress.variants import EngineKind, Precision
from services.inference.triton_repository import aot_inductor, onnxruntime, onnxruntime_python, tensorrt
from services.inference.triton_repository.configuration import OWN_VERSION
from services.inference.triton_repository.engines import BuiltEngine
from services.inference.triton_repository.options import Engine, ServingOptions
from services.inference.triton_repository.rendering import Rendered
from services.inference.triton_repository.warmup import Warmup


def variants(
    model: str,
    versions: Mapping[int, str],
    signature: Signature,
    options: ServingOptions,
    *,
    engines: Sequence[BuiltEngine] = (),
    warmup: Warmup | None = None,
) -> list[Rendered]:
    """Every form that the options allow: TensorRT plans, AOTInductor packages, then ONNX Runtime, native first.

    `versions` are the digests of ONNX files by version in the repository; engines are of the newest one, and take part
    only where it is served alone, for all versions of a Triton model share one configuration. Unless an engine is
    required, ONNX Runtime comes last, so that a node for which nothing was built serves all the same.
    Raises InvalidArgument when an engine is required and the package holds none.
    """
    warmup, found = warmup or Warmup(), list[Rendered]()
    if tuple(versions) == (OWN_VERSION,):
        for engine in sorted(engines, key=_rank):
            kind, render = _RENDER[engine.key.kind]
            if options.engine in (Engine.AUTO, kind):
                found.append(replace(render(model, engine, signature, options, warmup), golden=engine.golden))
    if options.engine_required and options.engine is not Engine.ONNXRUNTIME:
        if not found:
            problem = f"the package holds no {options.engine.value} engine; optimise the model, or allow ONNX Runtime"
            raise InvalidArgument("INVALID_FIELD", fields={"deployment.serving.engine_required": problem})
        return found
    for fallback in (onnxruntime.render, onnxruntime_python.render):
        found.append(fallback(model, versions, signature, options, warmup))
    return found


_RENDER: Final = {
    EngineKind.TENSORRT: (Engine.TENSORRT, tensorrt.render),
    EngineKind.AOT_INDUCTOR: (Engine.AOT_INDUCTOR, aot_inductor.render),
}
_FASTEST: Final = (Precision.INT8_STATIC, Precision.FP16, Precision.BF16, Precision.FP32)


def _rank(engine: BuiltEngine) -> tuple[int, int, str]:
    precision = _FASTEST.index(engine.key.precision) if engine.key.precision in _FASTEST else len(_FASTEST)
    return list(_RENDER).index(engine.key.kind), precision, str(engine.key)
