"""The models of `bench.gpu_engines`, and how an engine and eager torch are timed in turns on one GPU."""

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor, _inductor, nn

from lepton import models as architectures
from lepton.models import Architecture, ModelPackage, Signature
from lepton.models import Tensor as Described
from services.inference.compress import aot_inductor
from services.inference.compress.variants import Precision

BATCH: Final = 32
ROUNDS: Final = 5
_DTYPES: Final = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def device() -> str:
    """The GPU's name; empty when there is none."""
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else ""


def version() -> str:
    """torch's version, with CUDA's."""
    return f"{torch.__version__} (CUDA {torch.version.cuda})"


def models() -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Names, modules in float32 on the CPU, and inputs of a whole batch."""
    torch.manual_seed(0)
    picture = {"channels": 3, "height": 64, "width": 64, "classes": 100, "features": 64, "hidden": 256, "poolings": 4}
    yield "cnn", architectures.build(Architecture(config=picture).complete()).eval(), torch.rand(BATCH, 3, 64, 64)
    gpt = {"vocabulary": 256, "context": 128, "width": 256, "layers": 6, "heads": 8}
    words = torch.randint(0, 256, (BATCH, 128))
    yield "transformer", architectures.build(Architecture(name="language_model", config=gpt)).eval(), words


def measured(model: nn.Module, inputs: Tensor, repeats: int) -> dict[str, Any]:
    """Of each precision: times of eager and of the engine, ratios, and how far the engine's answers are off."""
    found: dict[str, Any] = {}
    eager = copy.deepcopy(model).cuda()
    x = inputs.cuda()
    with torch.inference_mode():
        right = eager(x)
    for precision, dtype in _DTYPES.items():
        with tempfile.TemporaryDirectory(prefix="lepton-gpu-") as folder:
            engine = _engine(model, inputs, precision, Path(folder))
            half = aot_inductor.InPrecision(copy.deepcopy(model).cuda(), dtype).eval()
            with torch.inference_mode():
                answer = engine(x)
            found[str(precision)] = {
                "batch_1": _race({"eager": eager, "eager_half": half, "engine": engine}, x[:1], repeats),
                f"batch_{BATCH}": _race({"eager": eager, "eager_half": half, "engine": engine}, x, repeats),
                "largest_error": float((answer - right).abs().max()),
                "largest_answer": float(right.abs().max()),
                "same_class": float((answer.argmax(-1) == right.argmax(-1)).float().mean()),
            }
    return found


def _engine(model: nn.Module, inputs: Tensor, precision: Precision, folder: Path) -> Callable[[Tensor], Tensor]:
    kind = "FP32" if inputs.is_floating_point() else "INT64"
    signature = Signature(
        inputs=(Described(name="x", datatype=kind, shape=(-1, *inputs.shape[1:])),),
        outputs=(Described(name="logits", datatype="FP32", shape=(-1, 1)),),
    )
    package = ModelPackage(files={}, signature=signature, metrics={}, lineage={})
    built = aot_inductor.build(copy.deepcopy(model), package, {"x": inputs.numpy()}, precision, "cuda")
    (folder / "engine.pt2").write_bytes(built)
    loaded: Any = _inductor.aoti_load_package(str(folder / "engine.pt2"))

    def run(x: Tensor) -> Tensor:
        output = loaded(x)
        answer: Tensor = output[0] if isinstance(output, list | tuple) else output
        return answer

    return run


def _race(contenders: dict[str, Any], x: Tensor, repeats: int) -> dict[str, float]:
    """Microseconds for a call of each, the median of rounds in turns, until the GPU has answered; and the ratios."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for contender in contenders.values():
            for _ in range(20):
                contender(x)
        for _ in range(ROUNDS):
            for name, contender in contenders.items():
                times[name].append(_timed(contender, x, repeats))
    found = {f"{name}_us": round(median(each), 1) for name, each in times.items()}
    return {
        **found,
        "speedup": round(found["eager_us"] / found["engine_us"], 2),
        "speedup_over_half": round(found["eager_half_us"] / found["engine_us"], 2),
    }


def _timed(contender: Callable[[Tensor], Tensor], x: Tensor, repeats: int) -> float:
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    total = 0.0
    for _ in range(repeats):  # every call is waited for, as a server waits for its answer
        start.record()
        contender(x)
        end.record()
        end.synchronize()
        total += start.elapsed_time(end)
    return 1000 * total / repeats
