"""Makes one variant of a model: shrinks the module, exports it, changes the file, builds the engine."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save
from torch import nn

from lepton.golden import Array
from lepton.models import Architecture, ModelPackage
from lepton.models.package import WEIGHTS
from services.inference.compress import aot_inductor, onnx_files, tensorrt_engine
from services.inference.compress.engines import FACTS, EngineKey, facts
from services.inference.compress.export_onnx import to_onnx
from services.inference.compress.judging import Run
from services.inference.compress.samples import Samples
from services.inference.compress.shrinking import Pupil, Shrunk, shrink
from services.inference.compress.variants import EngineKind, Precision, Shrink, Variant

Tell = Callable[[str, float], None]
"""Is told what is done now, and how much of the whole is done, from 0 to 1."""
_SHRUNK: Final = 0.7
"""So much of the time is spent on learning again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The model as it is."""

    package: ModelPackage
    digest: str
    onnx: bytes
    onnx_digest: str
    golden: Mapping[str, Array]
    module: nn.Sequential | None = None

    def run(self) -> Run:
        """It as a function, in ONNX Runtime."""
        return onnx_files.runner(self.onnx, self.outputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives."""
        return tuple(tensor.name for tensor in self.package.signature.outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a variant is made."""

    epochs: int = 12
    seed: int = 0
    max_accuracy_drop: float = 0.005
    device: str = "cpu"


@dataclass(slots=True, kw_only=True)
class Made:
    """A variant: the ONNX file, the file that is served where it is another (an engine), and what else it brings."""

    onnx: bytes
    served: bytes
    run: Run
    notes: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    architecture: Architecture | None = None
    engine: EngineKey | None = None
    closing: ExitStack = field(default_factory=ExitStack)


def make(variant: Variant, original: Original, samples: Samples, options: Options, tell: Tell) -> Made:
    """The variant. FailedPrecondition ENGINE_UNAVAILABLE where this machine cannot make it."""
    torch.manual_seed(options.seed)
    shrunk = _shrunk(variant, original, samples, options, tell)
    if shrunk is None:
        return _finished(variant, original, original.module, original.onnx, samples, options, tell)
    tell("exporting", _SHRUNK)
    tensors = {name: torch.from_numpy(array) for name, array in original.golden.items()}
    onnx = to_onnx(shrunk.module, original.package, tensors)
    made = _finished(variant, original, shrunk.module, onnx, samples, options, tell)
    made.notes.append(shrunk.words)
    if variant.shrink is Shrink.DISTILL:
        made.architecture = shrunk.architecture
        if variant.precision is Precision.FP32:
            made.files[WEIGHTS] = save({name: each.contiguous() for name, each in shrunk.module.state_dict().items()})
    return made


def _shrunk(variant: Variant, original: Original, samples: Samples, options: Options, tell: Tell) -> Shrunk | None:
    module, architecture, training = original.module, original.package.architecture, samples.training
    if variant.shrink is Shrink.NONE or module is None or architecture is None or training is None:
        return None
    pupil = Pupil(
        module=module,
        architecture=architecture,
        samples=samples,
        training=training,
        epochs=options.epochs,
        seed=options.seed,
        max_accuracy_drop=options.max_accuracy_drop,
    )
    phase = "teaching" if variant.shrink is Shrink.DISTILL else "retuning"
    tell(phase, 0.0)
    return shrink(variant.shrink, pupil, lambda done: tell(phase, done * _SHRUNK))


def _finished(
    variant: Variant,
    original: Original,
    module: nn.Sequential | None,
    onnx: bytes,
    samples: Samples,
    options: Options,
    tell: Tell,
) -> Made:
    package, outputs = original.package, original.outputs
    if variant.engine is EngineKind.ONNXRUNTIME:
        tell("converting", 0.75)
        file = _converted(onnx, variant.precision, samples)
        return Made(onnx=file, served=file, run=onnx_files.runner(file, outputs))
    inputs = [tensor.name for tensor in package.signature.inputs]
    closing = ExitStack()
    folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="lepton-engine-")))
    if variant.engine is EngineKind.AOT_INDUCTOR:
        assert module is not None
        key = aot_inductor.key(package, original.onnx_digest, variant.precision, options.device)
        tell("compiling", 0.2)
        whole = copy.deepcopy(module)
        engine = aot_inductor.build(whole, package, original.golden, variant.precision, options.device)
        run = aot_inductor.runner(engine, inputs, options.device, folder)
        files = {key.file: engine}
    else:
        tensorrt_engine.library()  # before anything is made for it
        shapes = aot_inductor.shapes(package)
        device = aot_inductor.device_class("cuda")
        key = tensorrt_engine.key(original.onnx_digest, shapes, variant.precision, device)
        tell("building the engine", 0.2)
        built = tensorrt_engine.build(tensorrt_engine.typed(onnx, variant.precision, samples.calibration), shapes)
        engine, run = built.plan, tensorrt_engine.runner(built.plan, inputs, outputs)
        files = {key.file: built.plan, f"{Path(key.file).parent}/timing.cache": built.timing_cache}
    files[f"{Path(key.file).parent}/{FACTS}"] = facts(
        [aot_inductor.shapes(package)], model=original.onnx_digest, package=original.digest
    )
    return Made(onnx=onnx, served=engine, run=run, files=files, engine=key, closing=closing)


def _converted(onnx: bytes, precision: Precision, samples: Samples) -> bytes:
    if precision in (Precision.FP16, Precision.BF16):
        return onnx_files.halved(onnx, precision)
    if precision in (Precision.INT8_DYNAMIC, Precision.INT8_STATIC):
        return onnx_files.optimised(onnx_files.quantised(onnx, precision, samples.calibration))
    return onnx_files.optimised(onnx)
