"""The learning rate of every step, and the end of a run that gets no better: pure, so tested by tables."""

from typing import Any

import pytest

from lepton.errors import InvalidArgument
from services.trainer.worker.schedule import learning_rate
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.stopping import Stopping

DATASET = "sha256:" + "0" * 64


def spec(**settings: Any) -> TrainingSpec:
    return TrainingSpec.of(project="acme", dataset=DATASET, learning_rate=1.0, epochs=10, **settings)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"schedule": "constant", "warmup_steps": 0}, {1: 1.0, 50: 1.0, 100: 1.0}),
        ({"schedule": "constant", "warmup_steps": 4}, {1: 0.25, 2: 0.5, 4: 1.0, 5: 1.0}),
        ({"schedule": "constant"}, {1: 0.1, 5: 0.5, 10: 1.0}),
        ({"schedule": "linear", "warmup_steps": 0}, {1: 1.0, 51: 0.5, 100: 0.01}),
        ({"schedule": "cosine", "warmup_steps": 0}, {1: 1.0, 51: 0.5}),
        ({"schedule": "step", "warmup_steps": 0, "decay": 0.5, "decay_epochs": 3}, {30: 1.0, 31: 0.5, 61: 0.25}),
    ],
)
def test_each_shape_gives_the_rates_that_it_promises(settings: dict[str, Any], rates: dict[int, float]) -> None:
    chosen = spec(**settings)
    assert {step: learning_rate(chosen, step, 100) for step in rates} == pytest.approx(rates)


def after(chosen: TrainingSpec, metric: str, values: list[float]) -> list[bool]:
    """Whether the run is over after each epoch."""
    state, over = Stopping(), []
    for value in values:
        state = state.after(chosen, {metric: value})
        over.append(state.is_over)
    return over


def test_a_run_ends_after_so_many_epochs_without_a_better_one() -> None:
    chosen = spec(stop_patience_epochs=2)
    assert after(chosen, "validation_loss", [1.0, 0.9, 0.95, 0.8, 0.85, 0.9]) == [False] * 5 + [True]


def test_of_accuracy_more_is_better_and_too_little_more_does_not_count() -> None:
    chosen = spec(stop_patience_epochs=2, stop_metric="validation_accuracy", stop_min_delta=0.01)
    assert after(chosen, "validation_accuracy", [0.5, 0.6, 0.605, 0.609]) == [False, False, False, True]


def test_without_patience_a_run_never_ends_early() -> None:
    assert after(spec(), "validation_loss", [1.0, 2.0, 3.0, 4.0]) == [False] * 4


def test_the_state_survives_a_checkpoint() -> None:
    state = Stopping().after(spec(stop_patience_epochs=3), {"validation_loss": 1.0})
    assert Stopping.of_state(state.to_state()) == state


def test_a_metric_that_is_not_measured_is_refused_naming_those_that_are() -> None:
    with pytest.raises(InvalidArgument, match="validation_loss") as caught:
        Stopping().after(spec(stop_patience_epochs=1, stop_metric="validation_auc"), {"validation_loss": 1.0})
    assert list(caught.value.fields) == ["stop_metric"]
