"""A pipeline with every tensor known: which step takes what from where, checked by types and shapes; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from lepton.errors import InvalidArgument
from lepton.inference.v1 import pipeline_pb2 as pb
from lepton.inference.v1.model_pb2 import TensorSpec
from lepton.models import Signature, Tensor
from services.inference.pipelines.steps import Mismatch, Step, described, step_of
from services.inference.pipelines.steps.step import ONNX_TYPES

FIELD: Final = "deployment.pipeline"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidStep:
    """One step in its place. `signature` is by its own names, `inputs` and `outputs` say which tensors those are."""

    name: str
    step: Step | None
    model_version: str
    signature: Signature
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def given(self) -> Mapping[str, Tensor]:
        """The tensors it takes, by its own names."""
        return {tensor.name: tensor for tensor in self.signature.inputs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A checked pipeline."""

    inputs: tuple[Tensor, ...]
    steps: tuple[LaidStep, ...]
    outputs: tuple[Tensor, ...]

    @property
    def signature(self) -> Signature:
        """What clients send and get."""
        return Signature(inputs=self.inputs, outputs=self.outputs)

    @classmethod
    def of(cls, pipeline: pb.Pipeline, models: Mapping[str, Signature]) -> Self:
        """The layout of a pipeline whose model steps name versions of `models`.

        Raises InvalidArgument, which names the step and the tensor.
        """
        inputs = tuple(map(_tensor, pipeline.inputs)) or _first_model(pipeline, models).inputs
        _check_inputs(inputs)
        known = {tensor.name: tensor for tensor in inputs}
        steps: list[LaidStep] = []
        for number, given in enumerate(pipeline.steps):
            where = f"{FIELD}.steps[{number}:{given.name}]"
            if any(given.name == other.name for other in steps):
                raise _invalid(f"{where}.name", "is the name of an earlier step too")
            before = steps[-1] if steps else None
            laid = _lay(given, where, known, before, inputs, models)
            steps.append(laid)
            known |= {laid.outputs[tensor.name]: replace(tensor, name=laid.outputs[tensor.name])
                      for tensor in laid.signature.outputs}  # fmt: skip
        layout = cls(inputs=inputs, steps=tuple(steps), outputs=_answered(pipeline, known, steps))
        layout._check_use()
        return layout

    def _check_use(self) -> None:
        """Triton runs no ensemble with a step or an input that nobody takes anything of."""
        taken = {source for step in self.steps for source in step.inputs.values()}
        for number, tensor in enumerate(self.inputs):
            if tensor.name not in taken:
                raise _invalid(f"{FIELD}.inputs[{number}:{tensor.name}]", "is taken by no step; leave it out")
        taken |= {tensor.name for tensor in self.outputs}
        for number, step in enumerate(self.steps):
            if taken.isdisjoint(step.outputs.values()):
                given = ", ".join(step.outputs.values())
                problem = f"gives {given}, which nobody takes and no answer holds; leave it out, or answer it"
                raise _invalid(f"{FIELD}.steps[{number}:{step.name}]", problem)

    def explicit(self, pipeline: pb.Pipeline) -> pb.Pipeline:
        """The same pipeline with nothing left out."""
        told = pb.Pipeline(outputs=[tensor.name for tensor in self.outputs])
        told.inputs.extend(TensorSpec(name=each.name, datatype=each.datatype, shape=each.shape) for each in self.inputs)
        for given, laid in zip(pipeline.steps, self.steps, strict=True):
            step = told.steps.add()
            step.CopyFrom(given)
            step.inputs.update(laid.inputs)
            step.outputs.update(laid.outputs)
        return told


def _lay(
    given: pb.PipelineStep,
    where: str,
    known: Mapping[str, Tensor],
    before: LaidStep | None,
    inputs: Sequence[Tensor],
    models: Mapping[str, Signature],
) -> LaidStep:
    step: Step | None = None
    version = ""
    if given.WhichOneof("kind") == "model":
        version = given.model.model_version
        wanted = {tensor.name: tensor for tensor in models[version].inputs}
        names = tuple(wanted)
    else:
        try:
            step = step_of(given)
        except Mismatch as error:
            raise _invalid(f"{where}.{error.field}", error.problem) from error
        names, wanted = step.inputs, {}
    if unknown := sorted(set(given.inputs) - set(names)):
        raise _invalid(f"{where}.inputs.{unknown[0]}", f"is no input of the step; it takes {', '.join(names)}")
    wiring = {name: _source(given, where, name, known, before, inputs) for name in names}
    taken = {name: replace(known[source], name=name) for name, source in wiring.items()}
    for name, tensor in wanted.items():
        _check_model_input(f"{where}.inputs.{name}", known[wiring[name]], tensor)
    try:
        made = models[version].outputs if step is None else step.outputs(taken)
    except Mismatch as error:
        field = f"inputs.{error.field}" if error.field in names else error.field
        own = error.field if error.field in names else names[0]
        source = f" ({own} is the tensor {wiring[own]!r})"
        raise _invalid(f"{where}.{field}", f"{error.problem}{source}") from error
    if step is None:
        taken = wanted
    return LaidStep(
        name=given.name,
        step=step,
        model_version=version,
        signature=Signature(inputs=tuple(taken[name] for name in names), outputs=made),
        inputs=wiring,
        outputs=_targets(given, where, made, known),
    )


def _source(
    given: pb.PipelineStep,
    where: str,
    name: str,
    known: Mapping[str, Tensor],
    before: LaidStep | None,
    inputs: Sequence[Tensor],
) -> str:
    source = given.inputs.get(name, "")
    if source:
        if source not in known:
            raise _invalid(
                f"{where}.inputs.{name}", f"takes {source!r}, which is none of the tensors before: {', '.join(known)}"
            )
        return source
    is_model = given.WhichOneof("kind") == "model"
    if is_model and name in known:
        return name
    if before is not None and not given.HasField("concatenate"):
        return next(iter(before.outputs.values()))
    if before is None and len(inputs) == 1:
        return inputs[0].name
    raise _invalid(f"{where}.inputs.{name}", f"must say which tensor it takes: {', '.join(known)}")


def _targets(
    given: pb.PipelineStep, where: str, made: Sequence[Tensor], known: Mapping[str, Tensor]
) -> Mapping[str, str]:
    names = [tensor.name for tensor in made]
    if unknown := sorted(set(given.outputs) - set(names)):
        raise _invalid(f"{where}.outputs.{unknown[0]}", f"is no output of the step; it gives {', '.join(names)}")
    targets = {name: given.outputs.get(name, "") or name for name in names}
    for name, target in targets.items():
        if target in known or list(targets.values()).count(target) > 1:
            raise _invalid(
                f"{where}.outputs.{name}", f"would be a second tensor {target!r}; give it another name in `outputs`"
            )
    return targets


def _check_model_input(field: str, tensor: Tensor, wanted: Tensor) -> None:
    is_like = len(tensor.shape) == len(wanted.shape) and all(
        min(there, here) < 0 or there == here for there, here in zip(tensor.shape, wanted.shape, strict=True)
    )
    if tensor.datatype != wanted.datatype or not is_like:
        raise _invalid(field, f"is {described(tensor)}, but the model takes {wanted.datatype}{list(wanted.shape)}")


def _answered(pipeline: pb.Pipeline, known: Mapping[str, Tensor], steps: Sequence[LaidStep]) -> tuple[Tensor, ...]:
    for number, name in enumerate(pipeline.outputs):
        if name not in known:
            raise _invalid(f"{FIELD}.outputs[{number}]", f"is none of the tensors: {', '.join(known)}")
        if not any(name in step.outputs.values() for step in steps):
            raise _invalid(f"{FIELD}.outputs[{number}]", f"{name!r} is what clients send; answer what a step gives")
    if not pipeline.outputs:
        return tuple(known[name] for name in steps[-1].outputs.values())
    return tuple(known[name] for name in pipeline.outputs)


def _first_model(pipeline: pb.Pipeline, models: Mapping[str, Signature]) -> Signature:
    if pipeline.steps[0].WhichOneof("kind") != "model":
        raise _invalid(f"{FIELD}.inputs", "must be declared where the first step is no model")
    return models[pipeline.steps[0].model.model_version]


def _check_inputs(inputs: Sequence[Tensor]) -> None:
    names = [tensor.name for tensor in inputs]
    for number, tensor in enumerate(inputs):
        where = f"{FIELD}.inputs[{number}:{tensor.name}]"
        if not tensor.name or names.count(tensor.name) > 1:
            raise _invalid(f"{where}.name", "must be a name of its own")
        if tensor.datatype not in ONNX_TYPES:
            raise _invalid(f"{where}.datatype", f"is {tensor.datatype!r}; it must be one of {', '.join(ONNX_TYPES)}")
        if tensor.shape[:1] != (-1,) or len(tensor.shape) < 2 or 0 in tensor.shape or min(tensor.shape) < -1:
            raise _invalid(f"{where}.shape", f"is {list(tensor.shape)}; it must begin with -1, the batch, and go on")


def _tensor(spec: TensorSpec) -> Tensor:
    return Tensor(name=spec.name, datatype=spec.datatype, shape=tuple(spec.shape))


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={field: problem})
