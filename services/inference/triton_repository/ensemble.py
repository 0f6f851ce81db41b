"""Renders ensembles: several models that Triton runs one after another for one request, tensors passed in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lepton.errors import InvalidArgument
from lepton.models import Signature, Tensor
from lepton.repository import CONFIG, Requirements
from services.inference.triton_repository.configuration import OWN_VERSION, as_text, configuration, is_batched
from services.inference.triton_repository.options import Engine, ServingOptions
from services.inference.triton_repository.rendering import Rendered

_FIELD: Final = "deployment.pipeline"
_MOST_STEPS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One model of an ensemble and where its tensors come from and go to."""

    model: str
    """A model that the same server serves and that belongs to the same deployment."""
    signature: Signature
    inputs: Mapping[str, str]
    """The ensemble's tensor for each input of the model."""
    outputs: Mapping[str, str]
    """The ensemble's tensor for each output that is used."""


def render(model: str, steps: Sequence[Step], signature: Signature, options: ServingOptions) -> Rendered:
    """The repository of an ensemble with this signature; the models of its steps are served beside it.

    Raises InvalidArgument that names the step: tensors come from the ensemble's inputs or from earlier steps, each is
    written once, and what is joined has the same type and shape. A step outside the deployment is never named here:
    the caller makes the steps' models itself.
    """
    _check(steps, signature)
    config = configuration(model, signature, options)
    config.ClearField("dynamic_batching")  # the steps batch; an ensemble only passes on
    config.platform = "ensemble"
    for step in steps:
        added = config.ensemble_scheduling.step.add(model_name=step.model, model_version=-1)
        for name, tensor in sorted(step.inputs.items()):
            added.input_map[name] = tensor
        for name, tensor in sorted(step.outputs.items()):
            added.output_map[name] = tensor
    # Triton wants the version's folder to exist, though nothing is in it.
    files: dict[str, bytes | str] = {CONFIG: as_text(config), f"{OWN_VERSION}/ensemble": b""}
    return Rendered(engine=Engine.AUTO, requires=Requirements(), files=files)


def _check(steps: Sequence[Step], signature: Signature) -> None:
    if not 1 <= len(steps) <= _MOST_STEPS:
        raise _invalid("", f"has {len(steps)} steps; it may have 1 to {_MOST_STEPS}")
    known = {tensor.name: tensor for tensor in signature.inputs}
    batched = is_batched(signature)
    for number, step in enumerate(steps):
        if is_batched(step.signature) != batched:
            raise _invalid(f"steps[{number}]", "takes batches where the pipeline does not, or the other way round")
        wanted = {tensor.name: tensor for tensor in step.signature.inputs}
        if missing := sorted(wanted.keys() ^ step.inputs.keys()):
            raise _invalid(f"steps[{number}].inputs", f"must map exactly the model's inputs; see {missing[0]}")
        for name, tensor in step.inputs.items():
            if tensor not in known:
                raise _invalid(f"steps[{number}].inputs", f"{tensor} is no input and no output of an earlier step")
            _match(known[tensor], wanted[name], f"steps[{number}].inputs")
        given = {tensor.name: tensor for tensor in step.signature.outputs}
        for name, tensor in step.outputs.items():
            if name not in given:
                raise _invalid(f"steps[{number}].outputs", f"the model has no output {name}")
            if tensor in known:
                raise _invalid(f"steps[{number}].outputs", f"{tensor} is written twice")
            known[tensor] = given[name]
    for output in signature.outputs:
        if output.name not in known:
            raise _invalid("", f"no step writes the output {output.name}")
        _match(known[output.name], output, "")


def _match(given: Tensor, wanted: Tensor, field: str) -> None:
    if given.datatype != wanted.datatype:
        raise _invalid(field, f"{given.name} is {given.datatype}, {wanted.name} is {wanted.datatype}")
    fits = len(given.shape) == len(wanted.shape) and all(
        -1 in (one, other) or one == other for one, other in zip(given.shape, wanted.shape, strict=True)
    )
    if not fits:
        raise _invalid(field, f"{given.name} is {list(given.shape)}, {wanted.name} is {list(wanted.shape)}")


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={f"{_FIELD}.{field}" if field else _FIELD: problem})
