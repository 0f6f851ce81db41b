"""The process that runs an imported model once: `python -m lepton.models.importing.proving SPEC.json`.

It bounds its own memory and time before it touches the model, and writes `golden.safetensors` and `report.json` beside
the spec (a model given as code leaves `model.onnx` there too), or `problem.json` when the model could not be proved.
"""

import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

from lepton.errors import InvalidArgument, LeptonError
from lepton.models.architecture import Architecture
from lepton.models.importing import golden_samples as samples
from lepton.models.importing.runners import (
    OnnxRunner,
    ProgramRunner,
    Runner,
    from_code,
    measured,
    recipe_runner,
)
from lepton.models.package import GOLDEN, ONNX, Form, Signature, Tensor

CPU_S: Final = 600
MEMORY_BYTES: Final = 8 << 30
REPORT: Final = "report.json"
PROBLEM: Final = "problem.json"


def prove(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Runs the model with its golden samples and writes them; the report. Raises LeptonError."""
    path = Path(spec["model"])
    wanted = Signature.from_json(spec["signature"]) if spec.get("signature") else None
    arrays = samples.read_npz(Path(spec["golden"])) if spec.get("golden") else None
    runner, chosen = _runner(spec, path, wanted, arrays, folder)
    signature = wanted or runner.signature
    if chosen is None:
        chosen = _chosen(spec, signature, runner, arrays)
    started = time.perf_counter()
    outputs = runner.run(chosen.inputs)
    seconds = time.perf_counter() - started
    signature = measured(signature, chosen.inputs, outputs)
    _check_finite(path, outputs)
    if all(tensor.shape[:1] == (-1,) for tensor in (*signature.inputs, *signature.outputs)):
        _check_rows(path, runner, chosen, outputs)
    for name, right in chosen.outputs.items():
        if problem := samples.difference(outputs[name], right):
            raise _unproved(path, f"its answer {name} {problem}")
    accuracy = samples.accuracy(outputs, chosen.labels)
    golden = {**chosen.inputs, **outputs}
    if chosen.labels is not None:
        golden[signature.labels] = np.ascontiguousarray(chosen.labels)
    save_file(golden, folder / GOLDEN)
    return {
        "inputs": [tensor.to_json() for tensor in signature.inputs],
        "outputs": [tensor.to_json() for tensor in signature.outputs],
        "rows": len(next(iter(chosen.inputs.values()))),
        "made": arrays is None,
        "seed": spec.get("seed", 0),
        "seconds": seconds,
        "metrics": {} if accuracy is None else {"golden_accuracy": accuracy},
    }


def _runner(
    spec: dict[str, Any], path: Path, wanted: Signature | None, arrays: samples.Arrays | None, folder: Path
) -> tuple[Runner, samples.Given | None]:
    if spec.get("code"):
        inputs = tuple(Tensor.from_json(each) for each in spec["inputs"])
        chosen = (
            samples.given(arrays, inputs, ())
            if arrays is not None
            else samples.made(inputs, spec["seed"], spec["below"], spec["sizes"])
        )
        torch_runner = from_code(spec["code"], path, inputs, chosen.inputs, folder / ONNX)
        onnx_runner = OnnxRunner(folder / ONNX)
        for name, right in torch_runner.run(chosen.inputs).items():
            if problem := samples.difference(onnx_runner.run(chosen.inputs)[name], right):
                raise _unproved(path, f"its ONNX file answers unlike its code: {name} {problem}")
        if arrays is not None:
            chosen = samples.given(arrays, inputs, onnx_runner.signature.outputs)
        return onnx_runner, chosen
    if spec["form"] == Form.ONNX:
        return OnnxRunner(path), None
    if spec["form"] == Form.PT2:
        return ProgramRunner(path), None
    return recipe_runner(path, Architecture.from_json(spec["architecture"]), wanted), None


def _chosen(spec: dict[str, Any], signature: Signature, runner: Runner, arrays: samples.Arrays | None) -> samples.Given:
    if arrays is not None:
        return samples.given(arrays, signature.inputs, [each for each in signature.outputs if each.shape])
    below = {**runner.below, **spec["below"]}
    return samples.made(signature.inputs, spec["seed"], below, spec["sizes"])


def _check_finite(path: Path, outputs: samples.Arrays) -> None:
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _unproved(path, f"its answer {name} holds NaN or infinity; give real requests with --golden")


def _check_rows(path: Path, runner: Runner, chosen: samples.Given, outputs: samples.Arrays) -> None:
    """A server joins the rows of several callers, so a row's answer may not depend on those beside it."""
    alone = runner.run({name: array[:1] for name, array in chosen.inputs.items()})
    for name, answer in alone.items():
        if problem := samples.difference(answer, outputs[name][:1]):
            raise _unproved(
                path, f"a row alone gets another answer ({name} {problem}); fix the first dimension instead"
            )


def _unproved(path: Path, problem: str) -> InvalidArgument:
    return InvalidArgument("MODEL_NOT_PROVED", file=path.name, problem=problem)


def _bound(model_bytes: int) -> None:
    """Memory that is written to, processor time, files: what a hostile model could run away with."""
    memory = MEMORY_BYTES + 6 * model_bytes
    for what, most in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 4 << 30),
    ):
        hard = resource.getrlimit(what)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def main(arguments: list[str]) -> int:
    """Proves one model."""
    path = Path(arguments[0])
    spec = json.loads(path.read_bytes())
    _bound(Path(spec["model"]).stat().st_size)
    warnings.simplefilter("ignore")
    try:
        report = prove(spec, path.parent)
    except LeptonError as error:
        facts = {"reason": error.reason, "metadata": error.metadata, "fields": error.fields}
        (path.parent / PROBLEM).write_text(json.dumps(facts))
        return 1
    except MemoryError:
        problem = f"it needs more than {MEMORY_BYTES >> 30} GiB to run its golden requests"
    except Exception as error:  # noqa: BLE001 (whatever the libraries say of a file that they refuse is the answer)
        problem = f"{type(error).__name__}: {error}"[:1500]
    else:
        (path.parent / REPORT).write_text(json.dumps(report))
        return 0
    facts = {
        "reason": "MODEL_NOT_PROVED",
        "metadata": {"file": Path(spec["model"]).name, "problem": problem},
        "fields": {},
    }
    (path.parent / PROBLEM).write_text(json.dumps(facts))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
