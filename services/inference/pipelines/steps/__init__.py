"""Owns the steps that are declared: what each kind gives, its ONNX graph, and what it does in numpy."""

from collections.abc import Callable, Mapping
from typing import Final

from lepton.errors import InvalidArgument
from lepton.inference.v1 import pipeline_pb2 as pb
from services.inference.decisions import Calibration, CostMatrix
from services.inference.pipelines.steps.numbers import Concatenate, Normalise, OneHot
from services.inference.pipelines.steps.pictures import Resize
from services.inference.pipelines.steps.scores import Calibrate, Decision, Threshold, TopK
from services.inference.pipelines.steps.step import Array, Mismatch, Step, described
from services.inference.pipelines.steps.text import Lookup, Tokenise

__all__ = ["KINDS", "Array", "Mismatch", "Step", "described", "step_of"]

MODEL: Final = "model"
KINDS: Final[Mapping[str, Callable[[pb.PipelineStep], Step]]] = {
    "normalise": lambda s: Normalise(mean=tuple(s.normalise.mean), deviation=tuple(s.normalise.deviation)),
    "resize": lambda s: Resize(height=s.resize.height, width=s.resize.width),
    "lookup": lambda s: Lookup(keys=tuple(s.lookup.keys), values=tuple(s.lookup.values), otherwise=s.lookup.otherwise),
    "tokenise": lambda s: Tokenise(
        vocabulary=tuple(s.tokenise.vocabulary),
        length=s.tokenise.length,
        first=s.tokenise.first,
        unknown=s.tokenise.unknown,
        padding=s.tokenise.padding,
    ),
    "one_hot": lambda s: OneHot(depth=s.one_hot.depth),
    "concatenate": lambda s: Concatenate(count=s.concatenate.count),
    "calibrate": lambda s: Calibrate(calibration=Calibration.of(s.calibrate.calibration)),
    "top_k": lambda s: TopK(k=s.top_k.k, labels=tuple(s.top_k.labels)),
    "threshold": lambda s: Threshold(thresholds=tuple(s.threshold.thresholds)),
    "decision": lambda s: Decision(matrix=CostMatrix.of(s.decision)),
}
"""Each kind of step but the models, by the name of its field."""


def step_of(given: pb.PipelineStep) -> Step:
    """The step that a message declares. Raises Mismatch."""
    try:
        return KINDS[given.WhichOneof("kind") or ""](given)
    except InvalidArgument as error:
        ((field, problem),) = error.fields.items()
        raise Mismatch(field.rpartition(".")[2], problem) from error
