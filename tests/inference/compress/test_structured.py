"""Structured pruning really removes channels, heads and columns, and what it keeps computes what it computed before."""

import numpy as np
import pytest
import torch
from torch import nn

from lepton import models
from lepton.models import Architecture
from services.inference.compress import magnitude, structured
from services.inference.compress.retuning import Lesson, Schedule, retune
from services.inference.compress.samples import Part

CNN = Architecture(config={"channels": 1, "height": 8, "width": 8, "classes": 10, "features": 32, "hidden": 64})
GPT = Architecture(
    name="language_model", config={"vocabulary": 64, "context": 16, "width": 32, "layers": 2, "heads": 4}
)
TEXT = Architecture(name="text_classifier", config={"classes": 3, "vocabulary": 100, "length": 12, "width": 32})


def model_of(architecture: Architecture) -> tuple[nn.Sequential, Part]:
    torch.manual_seed(5)
    generator = np.random.default_rng(5)
    if architecture is CNN:
        x = generator.normal(size=(64, 1, 8, 8)).astype(np.float32)
        return models.build(CNN.complete()), Part(inputs={"x": x}, labels=generator.integers(0, 10, 64))
    if architecture is TEXT:
        tokens = generator.integers(0, 100, (64, 12))
        return models.build(TEXT), Part(inputs={"x": tokens}, labels=generator.integers(0, 3, 64))
    tokens = generator.integers(0, 64, (64, 16))
    return models.build(GPT), Part(inputs={"x": tokens}, labels=generator.integers(0, 64, (64, 16)))


def silenced(model: nn.Sequential, fraction: float) -> None:
    """The last units of every group neither say nor hear anything: cutting just them must change no answer."""
    with torch.no_grad():
        for group in structured.groups(model):
            first = group.kept(fraction)
            for share in group.shares:
                start, end = (share.offset + at * share.block for at in (first, group.units))
                weight = share.layer.weight if share.is_output else share.layer.weight.transpose(0, 1)
                weight[start:end] = 0
                if share.is_output and share.layer.bias is not None:
                    share.layer.bias[start:end] = 0


@pytest.mark.parametrize("architecture", [CNN, GPT, TEXT])
def test_units_that_contribute_nothing_are_cut_and_no_answer_changes(architecture: Architecture) -> None:
    model, part = model_of(architecture)
    silenced(model, 0.5)
    x = torch.from_numpy(part.inputs["x"])
    with torch.no_grad():
        before = model(x)
    count = structured.parameters(model)
    lesson = Lesson(teacher=models.build(architecture.complete()), part=part)  # another model: the loss has a slope
    counts = structured.prune(model, 0.5, lesson)
    assert counts
    assert all(now < was for was, now in counts.values())
    assert structured.parameters(model) < 0.8 * count
    with torch.no_grad():
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_the_layers_themselves_are_smaller() -> None:
    model, part = model_of(GPT)
    counts = structured.prune(model, 0.5, Lesson(teacher=models.build(GPT), part=part))
    assert counts == {
        "block0.heads": (4, 2), "block0.columns": (128, 64), "block1.heads": (4, 2), "block1.columns": (128, 64),
    }  # fmt: skip
    block = model.get_submodule("block0")
    assert block.get_submodule("attention.query").weight.shape == (16, 32)
    assert block.get_submodule("attention.project").weight.shape == (32, 16)
    assert block.get_submodule("perceptron.down").weight.shape == (32, 64)
    model, part = model_of(CNN)
    structured.prune(model, 0.5, Lesson(teacher=models.build(CNN.complete()), part=part))
    assert model.get_submodule("second.convolution").weight.shape == (32, 16, 3, 3)
    assert model.get_submodule("hidden.linear").weight.shape == (32, 32 * 16)


def test_what_matters_is_kept() -> None:
    model, part = model_of(CNN)
    with torch.no_grad():  # one unit of the hidden layer decides everything
        output = model.get_submodule("output")
        assert isinstance(output, nn.Linear)
        output.weight.mul_(0.01)
        output.weight[:, 7] = torch.linspace(-5, 5, 10)
        deciding = model.get_submodule("hidden.linear").weight[7].clone()
    lesson = Lesson(teacher=models.build(CNN.complete()), part=part)
    inner = next(group for group in structured.groups(model) if group.name == "hidden")
    structured.prune(nn.Sequential(*[]), 0.5, lesson)  # nothing to cut in nothing
    counts = structured.prune(model, 0.8, lesson)
    assert counts["hidden"] == (inner.units, inner.kept(0.8))
    left = model.get_submodule("output").weight
    assert (left - torch.linspace(-5, 5, 10)[:, None]).abs().sum(0).min() < 1e-5
    assert deciding.numel() >= model.get_submodule("hidden.linear").weight.shape[1]


def test_the_smallest_weights_go_to_zero_and_stay_there_while_the_rest_learns() -> None:
    model, part = model_of(CNN)
    teacher = models.build(CNN.complete())
    hold = magnitude.held(model, magnitude.masks(model, 0.75))
    before = [each.detach().clone() for each in model.parameters()]
    retune(model, Lesson(teacher=teacher, part=part), Schedule(epochs=2, batch_size=32), after_step=hold)
    weights = [each for each in model.parameters() if each.dim() > 1]
    zeros = sum(int((each == 0).sum()) for each in weights) / sum(each.numel() for each in weights)
    assert 0.74 < zeros < 0.78
    assert any(not torch.equal(was, now) for was, now in zip(before, model.parameters(), strict=True))


def test_retuning_is_the_same_every_time_and_teaches() -> None:
    def learned() -> tuple[nn.Sequential, float, float]:
        model, part = model_of(CNN)
        part = Part(inputs=part.inputs)  # labels that mean nothing would only disturb
        torch.manual_seed(9)
        lesson = Lesson(teacher=models.build(CNN.complete()).eval(), part=part)
        before = float(np.mean([each.item() for each in lesson.losses(model, 0)]))
        retune(model, lesson, Schedule(epochs=12, batch_size=16, seed=3))
        return model, before, float(np.mean([each.item() for each in lesson.losses(model, 0)]))

    (one, before, after), (other, _, _) = learned(), learned()
    assert after < 0.7 * before
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
