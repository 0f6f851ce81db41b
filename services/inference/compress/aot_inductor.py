"""AOTInductor: a module compiled ahead of time to a `.pt2` package that torch loads without compiling anything.

On a CPU the compiler makes C++ of it, with all instructions that this CPU has; on a GPU, kernels for this GPU. So the
device class of the engine's key is that of the machine that it is made on.
"""

import hashlib
import platform
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import _inductor, nn

from lepton.errors import FailedPrecondition
from lepton.golden import Array
from lepton.models import ModelPackage
from services.inference.compress.engines import EngineKey, Shape
from services.inference.compress.judging import Run
from services.inference.compress.variants import EngineKind, Precision

_DTYPES: Final = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
MAX_BATCH: Final = 64


class InPrecision(nn.Module):
    """A module whose arithmetic is in another precision, while it takes and gives FP32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self._dtype = dtype

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the module gives, in FP32."""
        narrow = [each.to(self._dtype) if each.is_floating_point() else each for each in inputs]
        output: torch.Tensor = self.module(*narrow).float()
        return output


def version() -> str:
    """The version that a package must be loaded with."""
    return f"torch-{torch.__version__}"


def device_class(device: str) -> str:
    """The class of this machine's device: what is compiled for it runs on others of the same class only."""
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()} sm{major}{minor}"
    instructions = torch.backends.cpu.get_cpu_capability()
    flags = [line for line in _cpuinfo().splitlines() if line.startswith("flags")][:1]
    exact = hashlib.sha256("".join(flags).encode()).hexdigest()[:8]
    return f"cpu-{platform.machine()}-{instructions}-{exact}".replace("_", "-")


def key(package: ModelPackage, digest: str, precision: Precision, device: str) -> EngineKey:
    """What names the engine of a package of that digest."""
    return EngineKey.of(
        EngineKind.AOT_INDUCTOR,
        version=version(),
        device=device_class(device),
        precision=precision,
        model=digest,
        shapes=shapes(package),
    )


def shapes(package: ModelPackage, max_batch: int = MAX_BATCH) -> tuple[Shape, ...]:
    """The shapes that engines are built for: batches from one row to `max_batch`, where the batch is free."""
    found = []
    for tensor in package.signature.inputs:
        rest = tuple(tensor.shape[1:])
        ends = (1, 8, max_batch) if tensor.shape[:1] == (-1,) else (tensor.shape[0],) * 3
        if min((*rest, 1)) < 1:
            problem = f"the input {tensor.name} {list(tensor.shape)} is free in more than its batch"
            raise FailedPrecondition("ENGINE_UNAVAILABLE", engine="of fixed shapes", problem=problem)
        least, usual, most = ((rows, *rest) for rows in ends)
        found.append(Shape(input=tensor.name, least=least, usual=usual, most=most))
    return tuple(found)


def build(
    module: nn.Module, package: ModelPackage, samples: Mapping[str, Array], precision: Precision, device: str
) -> bytes:
    """The package (`.pt2`). `module` is changed: moved and converted. FailedPrecondition (ENGINE_UNAVAILABLE) where

    there is no compiler, no such device, or AOTInductor cannot compile the module.
    """
    if device == "cpu" and shutil.which("g++") is None:
        raise _unavailable("there is no C++ compiler (g++) on this machine")
    if device == "cuda" and not torch.cuda.is_available():
        raise _unavailable("there is no GPU on this machine")
    whole = InPrecision(module.to(device).eval(), _DTYPES[precision]).eval()
    inputs = tuple(torch.from_numpy(samples[each.name][:2].copy()).to(device) for each in package.signature.inputs)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    free = tuple({0: batch} if each.shape[:1] == (-1,) else {} for each in package.signature.inputs)
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory(prefix="lepton-aot-") as folder:
        warnings.simplefilter("ignore")
        target = Path(folder, "model.pt2")
        try:
            program = torch.export.export(whole, inputs, dynamic_shapes=(free,))
            made: Any = _inductor.aoti_compile_and_package(program, package_path=str(target))
        except Exception as error:  # whatever the compiler cannot do: the variant does not suit
            raise _unavailable(f"the module cannot be compiled ({type(error).__name__}: {str(error)[:500]})") from error
        return Path(made).read_bytes()


def runner(package: bytes, inputs: Sequence[str], device: str, folder: Path) -> Run:
    """A compiled package as a function; it is written to a file of the folder, which must outlive the function."""
    file = folder / "engine.pt2"
    file.write_bytes(package)
    loaded: Any = _inductor.aoti_load_package(str(file))

    def run(given: Mapping[str, Array]) -> Sequence[Array]:
        with torch.inference_mode():
            output = loaded(*(torch.from_numpy(np.ascontiguousarray(given[name])).to(device) for name in inputs))
        found = output if isinstance(output, tuple | list) else (output,)
        return [each.cpu().numpy() for each in found]

    return run


def _cpuinfo() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.exists() else platform.processor()


def _unavailable(problem: str) -> FailedPrecondition:
    return FailedPrecondition("ENGINE_UNAVAILABLE", engine="AOTInductor", problem=problem)
