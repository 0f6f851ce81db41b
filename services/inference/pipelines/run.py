"""Runs a laid-out pipeline in ONNX Runtime, proving each declared step: where golden requests come from."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnxruntime

from lepton.errors import FailedPrecondition
from services.inference.pipelines.layout import LaidStep, Layout
from services.inference.pipelines.steps import Array

ROWS: Final = 16
_TOLERANCE: Final = 1e-5
_SEED: Final = 20260101


def golden_inputs(layout: Layout, samples: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Requests for a pipeline: what the first to take a tensor is used to. `samples` are the models', by version.

    A model's are the golden inputs of its package; a declared step's are made up, the same every time.
    """
    found: dict[str, Array] = {}
    random = np.random.default_rng(_SEED)
    for tensor in layout.inputs:
        for step in layout.steps:
            own = next((name for name, source in step.inputs.items() if source == tensor.name), None)
            if own is None:
                continue
            if step.step is None:
                found[tensor.name] = samples[step.model_version][own]
            else:
                found[tensor.name] = step.step.samples(step.given, ROWS, random)[own]
            break
        else:
            raise FailedPrecondition("PIPELINE_INVALID", problem=f"no step takes the input {tensor.name}")
    rows = min([ROWS, *map(len, found.values())])
    return {name: array[:rows] for name, array in found.items()}


def run(layout: Layout, graphs: Mapping[str, bytes], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Every tensor of the pipeline for some requests; `graphs` are the steps' ONNX files by name.

    Raises FailedPrecondition (PIPELINE_INVALID) where a step fails or gives something else than its formula.
    """
    tensors = dict(inputs)
    for step in layout.steps:
        given = {name: tensors[source] for name, source in step.inputs.items()}
        made = _run(step, graphs[step.name], given)
        if step.step is not None:
            _prove(step, made, step.step.reference(given))
        tensors |= {step.outputs[name]: array for name, array in made.items()}
    return tensors


def _run(step: LaidStep, graph: bytes, given: Mapping[str, Array]) -> dict[str, Array]:
    names = [tensor.name for tensor in step.signature.outputs]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, dict(given)), strict=True))
    except Exception as error:  # ONNX Runtime's errors have no type of their own that it exports
        raise FailedPrecondition("PIPELINE_INVALID", problem=f"the step {step.name} fails: {error}"[:1000]) from error


def _prove(step: LaidStep, made: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    for name, right in expected.items():
        is_right = made[name].shape == right.shape and (
            bool(np.allclose(made[name], right, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))
            if np.issubdtype(right.dtype, np.floating)
            else bool((made[name] == right).all())
        )
        if not is_right:
            problem = f"the step {step.name} gives another {name} than its formula"
            raise FailedPrecondition("PIPELINE_INVALID", problem=problem)
