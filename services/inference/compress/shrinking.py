"""Makes a module smaller and lets it learn again: of several attempts the strongest that is good enough."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import nn

from lepton import models
from lepton.golden import Array
from lepton.models import Architecture
from services.inference.compress import magnitude, structured
from services.inference.compress.judging import Measure, Run, answers, judge
from services.inference.compress.retuning import Lesson, Progress, Schedule, retune
from services.inference.compress.samples import Part, Samples
from services.inference.compress.students import student
from services.inference.compress.variants import Shrink

_FRACTIONS: Final = (0.3, 0.5)
"""Of every group so much goes, one after the other while the accuracy lasts."""
_SPARSITIES: Final = (0.5, 0.75)
_FACTORS: Final = (0.5, 0.75)
"""The widths of students, the smallest first: the first that is good enough stays."""
_TAUGHT: Final = 3
"""A student begins with nothing, and learns so many times longer than a pruned model."""
_NUMBERS: Final = ("forecaster", "recommender")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """A smaller module, its architecture where a recipe can build it, and what was done in words."""

    module: nn.Sequential
    architecture: Architecture | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pupil:
    """What is made smaller, with what it learns from, and how much accuracy it may lose."""

    module: nn.Sequential
    architecture: Architecture
    samples: Samples
    training: Part
    epochs: int
    seed: int
    max_accuracy_drop: float

    @property
    def lesson(self) -> Lesson:
        """What the smaller module learns."""
        return Lesson(
            teacher=self.module,
            part=self.training,
            heads=self.samples.heads,
            is_classes=self.architecture.name not in _NUMBERS,
        )

    def schedule(self, factor: int = 1) -> Schedule:
        """How long it learns."""
        return Schedule(epochs=self.epochs * factor, seed=self.seed)

    def is_good(self, module: nn.Module) -> bool:
        """Whether a module is good enough on the validation samples, on which nothing is reported.

        One wrong answer more is let pass: of few samples it proves nothing. What counts is measured afterwards.
        """
        part = self.samples.validation
        if part is None:
            return True
        measure = Measure.FIDELITY if self.architecture.name in _NUMBERS else Measure.ACCURACY
        right = answers(as_run(self.module), part)
        was = judge(right, right, part, measure, self.samples.heads).accuracy
        now = judge(answers(as_run(module), part), right, part, measure, self.samples.heads).accuracy
        slack = 0.0 if part.labels is None else 1 / part.labels.size
        return was - now <= self.max_accuracy_drop + slack


def shrink(how: Shrink, pupil: Pupil, progress: Progress) -> Shrunk:
    """The smaller module; the weakest attempt when none is good enough, which its figures will say."""
    torch.manual_seed(pupil.seed)
    return {Shrink.STRUCTURED: _cut, Shrink.MAGNITUDE: _thinned, Shrink.DISTILL: _taught}[how](pupil, progress)


def as_run(module: nn.Module) -> Run:
    """A module of one output as a function."""

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        with torch.inference_mode():
            output = module.eval()(*(torch.from_numpy(array.copy()) for array in inputs.values()))
        return [cast("torch.Tensor", output).float().numpy()]

    return run


def _cut(pupil: Pupil, progress: Progress) -> Shrunk:
    current, counts = copy.deepcopy(pupil.module), dict[str, tuple[int, int]]()
    lesson, best, gone = pupil.lesson, None, 0.0
    for at, fraction in enumerate(_FRACTIONS):
        going, gone = 1 - (1 - fraction) / (1 - gone), fraction
        for name, (was, now) in structured.prune(current, going, lesson, pupil.seed).items():
            counts[name] = (counts.get(name, (was, was))[0], now)
        retune(current, lesson, pupil.schedule(), progress=_part(progress, at, len(_FRACTIONS)))
        if best is not None and not pupil.is_good(current):
            break
        words = "cut " + ", ".join(f"{name} {was} to {now}" for name, (was, now) in counts.items())
        best = Shrunk(module=copy.deepcopy(current), architecture=None, words=words)
    assert best is not None
    return best


def _thinned(pupil: Pupil, progress: Progress) -> Shrunk:
    current, best = copy.deepcopy(pupil.module), None
    for at, sparsity in enumerate(_SPARSITIES):
        hold = magnitude.held(current, magnitude.masks(current, sparsity))
        told = _part(progress, at, len(_SPARSITIES))
        retune(current, pupil.lesson, pupil.schedule(), after_step=hold, progress=told)
        if best is not None and not pupil.is_good(current):
            break
        words = f"{100 * sparsity:g} % of the weights are zero"
        best = Shrunk(module=copy.deepcopy(current), architecture=pupil.architecture, words=words)
    assert best is not None
    return best


def _taught(pupil: Pupil, progress: Progress) -> Shrunk:
    found = []
    for at, factor in enumerate(_FACTORS):
        architecture = student(pupil.architecture, factor)
        module = models.build(architecture)
        _copy_buffers(pupil.module, module)
        retune(module, pupil.lesson, pupil.schedule(_TAUGHT), progress=_part(progress, at, len(_FACTORS)))
        words = f"a student of {factor:g} of the width"
        found.append(Shrunk(module=module, architecture=architecture, words=words))
        if pupil.is_good(module):
            break
    return found[-1]


def _part(progress: Progress, at: int, of: int) -> Callable[[float], None]:
    return lambda done: progress((at + done) / of)


def _copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """What was counted in the data, such as means and spreads: a student takes it over where it has the same shape."""
    known = dict(source.named_buffers())
    with torch.no_grad():
        for name, buffer in target.named_buffers():
            if name in known and known[name].shape == buffer.shape:
                buffer.copy_(known[name])
