"""The variants that an optimisation may try: for each the steps it is made of, and what it needs; pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from lepton.errors import InvalidArgument


class Shrink(StrEnum):
    """What is done to the module, before anything is exported."""

    NONE = "none"
    STRUCTURED = "structured"
    MAGNITUDE = "magnitude"
    DISTILL = "distill"


class Precision(StrEnum):
    """The numbers that a variant is stored in, or computed in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8_DYNAMIC = "int8-dynamic"
    INT8_STATIC = "int8-static"


class EngineKind(StrEnum):
    """What runs a model."""

    ONNXRUNTIME = "onnxruntime"
    AOT_INDUCTOR = "aot-inductor"
    TENSORRT = "tensorrt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way of making a model smaller or faster."""

    name: str
    about: str
    shrink: Shrink = Shrink.NONE
    precision: Precision = Precision.FP32
    engine: EngineKind = EngineKind.ONNXRUNTIME

    @property
    def needs_module(self) -> bool:
        """It changes or compiles the torch module, so a package without a recipe has no such variant."""
        return self.shrink is not Shrink.NONE or self.engine is EngineKind.AOT_INDUCTOR

    @property
    def needs_training(self) -> bool:
        """It is trained, so it needs samples to be trained on."""
        return self.shrink is not Shrink.NONE

    @property
    def needs_device(self) -> bool:
        """It is made on and for an accelerator, even where the CPU has an engine of that kind."""
        half = self.precision in (Precision.FP16, Precision.BF16)
        return self.engine is EngineKind.TENSORRT or (self.engine is EngineKind.AOT_INDUCTOR and half)


_ALL: Final = (
    Variant(name="graph", about="ONNX with constants folded and operators fused; same numbers"),
    Variant(name="fp16", about="weights stored in FP16, computed in FP32 on a CPU", precision=Precision.FP16),
    Variant(name="bf16", about="weights stored in BF16, computed in FP32 on a CPU", precision=Precision.BF16),
    Variant(
        name="int8-dynamic",
        about="weights in INT8, ranges of activations found at every request",
        precision=Precision.INT8_DYNAMIC,
    ),
    Variant(
        name="int8-static",
        about="weights and activations in INT8, ranges calibrated on samples",
        precision=Precision.INT8_STATIC,
    ),
    Variant(name="pruned", about="whole channels, heads and columns removed, then retuned", shrink=Shrink.STRUCTURED),
    Variant(
        name="pruned-int8",
        about="pruned, then INT8 with calibrated ranges",
        shrink=Shrink.STRUCTURED,
        precision=Precision.INT8_STATIC,
    ),
    Variant(
        name="pruned-int8-dynamic",
        about="pruned, then INT8 with ranges found at every request",
        shrink=Shrink.STRUCTURED,
        precision=Precision.INT8_DYNAMIC,
    ),
    Variant(
        name="sparse",
        about="single weights set to zero, then retuned: smaller when compressed, no faster",
        shrink=Shrink.MAGNITUDE,
    ),
    Variant(name="distilled", about="a student of half the width, taught by the model", shrink=Shrink.DISTILL),
    Variant(
        name="distilled-int8",
        about="the student, then INT8 with calibrated ranges",
        shrink=Shrink.DISTILL,
        precision=Precision.INT8_STATIC,
    ),
    Variant(name="aot-fp32", about="compiled by AOTInductor, FP32", engine=EngineKind.AOT_INDUCTOR),
    Variant(
        name="aot-bf16",
        about="compiled by AOTInductor for a GPU, BF16",
        engine=EngineKind.AOT_INDUCTOR,
        precision=Precision.BF16,
    ),
    Variant(
        name="aot-fp16",
        about="compiled by AOTInductor for a GPU, FP16",
        engine=EngineKind.AOT_INDUCTOR,
        precision=Precision.FP16,
    ),
    Variant(
        name="tensorrt-fp32", about="TensorRT engine, FP32 (TF32 where the GPU has it)", engine=EngineKind.TENSORRT
    ),
    Variant(name="tensorrt-fp16", about="TensorRT engine, FP16", engine=EngineKind.TENSORRT, precision=Precision.FP16),
    Variant(
        name="tensorrt-int8",
        about="TensorRT engine, INT8 with calibrated ranges",
        engine=EngineKind.TENSORRT,
        precision=Precision.INT8_STATIC,
    ),
)
VARIANTS: Final[Mapping[str, Variant]] = {variant.name: variant for variant in _ALL}


def chosen(names: Sequence[str], *, devices: Collection[str]) -> tuple[Variant, ...]:
    """The variants of those names; of no names all that the machines can make: those for accelerators where there are.

    InvalidArgument naming the field when there is no such variant.
    """
    for index, name in enumerate(names):
        if name not in VARIANTS:
            known = ", ".join(VARIANTS)
            raise _invalid(f"optimization.variants[{index}]", f"{name!r} is no variant; there are {known}")
        if VARIANTS[name].needs_device and not devices:
            problem = f"{name} is made on an accelerator: say which in device_models, for example H200"
            raise _invalid("optimization.device_models", problem)
    if names:
        return tuple(VARIANTS[name] for name in dict.fromkeys(names))
    return tuple(variant for variant in _ALL if devices or not variant.needs_device)


def unsuitable(variant: Variant, *, has_module: bool, has_training: bool) -> str:
    """Why a variant cannot be made of a package; empty when it can."""
    if variant.needs_module and not has_module:
        return "the package has no recipe, only a file that can be run: its layers cannot be changed or compiled"
    if variant.needs_training and not has_training:
        return "there are no samples to retune with: give a dataset (--data)"
    return ""


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={field: problem})
