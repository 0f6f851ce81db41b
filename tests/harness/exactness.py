"""What exact means, as checks on how a job went; each says what is wrong."""

import math
from collections import Counter, defaultdict

import torch

from tests.harness.elastic_job import Told

ROUNDING = 1e-9  # double precision, some tens of steps, sums in another order


class Inexact(AssertionError):
    """A job did not do what the uninterrupted one does."""


def check(told: Told, reference: Told) -> None:
    """Every sample once per epoch, the losses and the weights of the uninterrupted run. Raises Inexact."""
    if not told.finished:
        raise Inexact("the job did not come to its end")
    _check_samples(told)
    _check_losses(told, reference)
    _check_weights(told, reference)


def _check_samples(told: Told) -> None:
    plan = told.plan
    used = Counter(sample for line in told.committed() for sample in line["samples"])
    wrong = {sample: used[sample] for sample in range(plan.samples) if used[sample] != plan.epochs}
    if wrong or len(used) != plan.samples:
        raise Inexact(f"samples used more or less than {plan.epochs} times: {wrong}")
    per_epoch = -(-plan.samples // plan.batch)
    by_epoch: dict[int, Counter[int]] = defaultdict(Counter)
    for line in told.committed():
        by_epoch[(line["step"] - 1) // per_epoch].update(line["samples"])
    for epoch, samples in by_epoch.items():
        if len(samples) != plan.samples or set(samples.values()) != {1}:
            raise Inexact(f"epoch {epoch} used samples twice, or not at all")


def losses(told: Told) -> dict[int, float]:
    """The loss of every step of the committed history, summed over the global batch."""
    summed: dict[int, float] = defaultdict(float)
    for line in told.committed():
        summed[line["step"]] += line["loss"]
    return dict(summed)


def _check_losses(told: Told, reference: Told) -> None:
    ours, expected = losses(told), losses(reference)
    if ours.keys() != expected.keys():
        raise Inexact(f"steps {sorted(ours.keys() ^ expected.keys())} are not those of the uninterrupted run")
    for step, loss in ours.items():
        if not math.isclose(loss, expected[step], rel_tol=ROUNDING, abs_tol=ROUNDING):
            raise Inexact(f"the loss of step {step} is {loss}, not {expected[step]}")


def _check_weights(told: Told, reference: Told) -> None:
    ours, expected = told.state()["model"], reference.state()["model"]
    is_same_gang = len(told.sizes | reference.sizes) == 1
    for name, tensor in ours.items():
        if is_same_gang and not torch.equal(tensor, expected[name]):
            raise Inexact(f"{name} is not the uninterrupted run's to the bit")
        if not torch.allclose(tensor, expected[name], rtol=ROUNDING, atol=ROUNDING):
            raise Inexact(f"{name} differs by {float((tensor - expected[name]).abs().max())}")
