"""What a recipe may be told: each setting does what it says, shown on small runs in this process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lepton import data, models
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.models import Architecture
from tests.harness import datasets
from tests.harness.alone import Trained, train_alone

pytestmark = pytest.mark.integration

LOANS = datasets.loans(400, seed=5)
TINY: dict[str, Any] = {"recipe": "risk_model", "epochs": 3, "batch_size": 64}


def weights(run: Trained) -> dict[str, torch.Tensor]:
    return run.model().state_dict()


def are_close(first: Trained, second: Trained) -> bool:
    return all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(weights(first).values(), weights(second).values(), strict=True)
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.0},
        {"schedule": "constant"},
        {"schedule": "step", "decay_epochs": 1},
        {"clip_norm": 0.01},
        {"seed": 1},
        {"precision": "bf16"},
    ],
)
def test_a_setting_changes_the_weights_and_the_same_setting_gives_the_same_to_the_bit(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    plain, chosen, again = (train_alone(tmp_path, LOANS, **TINY, **each) for each in ({}, settings, settings))
    assert chosen.package.files["weights.safetensors"] == again.package.files["weights.safetensors"]
    assert chosen.package.files["weights.safetensors"] != plain.package.files["weights.safetensors"]
    losses = chosen.curve("validation_loss")
    assert losses[-1] < losses[0] or "clip_norm" in settings


def test_a_batch_worked_off_in_parts_gives_the_weights_of_the_whole(tmp_path: Path) -> None:
    whole, parts = (train_alone(tmp_path, LOANS, **TINY, gradient_accumulation_steps=number) for number in (1, 3))
    assert are_close(whole, parts)


def test_sixteen_bits_with_a_scaled_loss_are_refused_without_a_device(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device, which has them")
    with pytest.raises(InvalidArgument, match="precision") as caught:
        train_alone(tmp_path, LOANS, **TINY, precision="fp16")
    assert list(caught.value.fields) == ["precision"]


def test_a_run_that_gets_no_better_ends_early_and_packages_its_best_epoch(tmp_path: Path) -> None:
    settings = {**TINY, "epochs": 50, "learning_rate": 0.05, "schedule": "constant"}
    run = train_alone(tmp_path, LOANS, **settings, stop_patience_epochs=2)
    losses = run.curve("validation_loss")
    best = int(np.argmin(losses))
    print(f"{len(losses)} epochs, best {best}")
    assert len(losses) == best + 3 < 50
    shorter = train_alone(tmp_path, LOANS, **{**settings, "epochs": 50, "seed": 0}, stop_patience_epochs=1)
    assert shorter.is_finished
    assert len(shorter.curve("validation_loss")) <= len(losses)
    x, y = torch.from_numpy(LOANS.x), torch.from_numpy(LOANS.y)
    parts = data.partition(len(LOANS), test_fraction=0.2, validation_fraction=0.1, seed=0)
    with torch.no_grad():
        logits = run.model()(x[parts.validation])
    assert float(nn.functional.cross_entropy(logits, y[parts.validation])) == pytest.approx(losses[best], rel=1e-4)


def test_a_run_that_ended_early_and_is_resumed_only_packages_again(tmp_path: Path) -> None:
    settings = {**TINY, "epochs": 50, "learning_rate": 0.05, "schedule": "constant", "stop_patience_epochs": 1}
    run = train_alone(tmp_path, LOANS, **settings)
    newest = run.of_kind("checkpoint")[-1]["manifest"]
    again = train_alone(tmp_path, LOANS, resume=newest, **settings)
    assert again.curve("loss") == []
    assert again.package.files["weights.safetensors"] == run.package.files["weights.safetensors"]
    assert again.metrics == run.metrics


def test_a_test_set_that_the_data_comes_with_is_used_as_it_is(tmp_path: Path) -> None:
    digits = data.digits()
    given = data.Dataset(x=digits.x[:300], y=digits.y[:300], x_test=digits.x[300:340], y_test=digits.y[300:340])
    run = train_alone(tmp_path, given, epochs=1, model={"features": 4, "hidden": 8})
    from safetensors.numpy import load

    assert np.array_equal(load(run.file("golden.safetensors"))["y"], digits.y[300:340])


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A classifier of half of the digits, whose folder the tests below go on with."""
    digits = data.digits()
    known = data.Dataset(x=digits.x[:900], y=digits.y[:900])
    return train_alone(tmp_path_factory.mktemp("donor"), known, epochs=6, batch_size=32)


def folder_of(run: Trained) -> Path:
    return Path(run.store.url.removeprefix("file://")).parent


def odd_or_even() -> data.Dataset:
    """Sixty of the other digits to learn from whether they are odd, and the rest of them to measure by."""
    digits = data.digits()
    x, y = digits.x[900:], digits.y[900:] % 2
    return data.Dataset(x=x[:60], y=y[:60], x_test=x[60:], y_test=y[60:])


def test_of_few_images_more_is_learned_with_the_weights_of_a_model_of_others(donor: Trained) -> None:
    settings: dict[str, Any] = {"epochs": 6, "batch_size": 16}
    alone = train_alone(folder_of(donor), odd_or_even(), **settings)
    helped = train_alone(folder_of(donor), odd_or_even(), **settings, initial_model=donor.digest)
    print(f"from nothing {alone.metrics['test_accuracy']:.3f}, transferred {helped.metrics['test_accuracy']:.3f}")
    assert helped.metrics["test_accuracy"] > alone.metrics["test_accuracy"] + 0.05
    assert helped.metrics["weights_taken_over"] == 8  # all but those of the output: there are fewer classes here
    assert helped.package.lineage["initial_model"] == donor.digest


def test_a_model_goes_on_where_another_of_the_same_form_ended(donor: Trained) -> None:
    digits = data.digits()
    same = data.Dataset(x=digits.x[:900], y=digits.y[:900])
    run = train_alone(folder_of(donor), same, epochs=1, seed=1, initial_model=donor.digest, learning_rate=1e-4)
    assert run.metrics["weights_taken_over"] == 10
    assert run.curve("loss")[0] < 0.5 * donor.curve("loss")[0]


def test_a_model_of_another_kind_gives_nothing(donor: Trained) -> None:
    with pytest.raises(FailedPrecondition, match="TRANSFER_IMPOSSIBLE"):
        train_alone(
            folder_of(donor), datasets.reviews(60, seed=0), recipe="text_classifier", initial_model=donor.digest
        )


def test_a_trunk_of_another_width_cannot_be_frozen(donor: Trained) -> None:
    with pytest.raises(FailedPrecondition, match="TRANSFER_IMPOSSIBLE"):
        train_alone(
            folder_of(donor), odd_or_even(), initial_model=donor.digest, freeze_trunk=True, model={"hidden": 32}
        )


def test_a_frozen_trunk_is_computed_once_for_all_heads_and_epochs(
    donor: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two heads over one trunk, five epochs: each image goes through the trunk once; the control trains it all."""
    digits = data.digits()
    x, y = digits.x[900:1000], np.stack([digits.y[900:1000], digits.y[900:1000] % 2], 1)
    two = data.Dataset(x=x[:60], y=y[:60], x_test=x[60:], y_test=y[60:])
    build, seen = models.build, []

    def counting(architecture: Architecture) -> nn.Sequential:
        model = build(architecture)
        if "heads" in architecture.config:  # not the donor's
            model[0].register_forward_hook(lambda _layer, inputs, _outputs: seen.append(len(inputs[0])))
        return model

    monkeypatch.setattr(models, "build", counting)
    settings: dict[str, Any] = {"epochs": 5, "batch_size": 16, "initial_model": donor.digest}
    shared = train_alone(folder_of(donor), two, **settings, freeze_trunk=True)
    once = sum(seen)
    seen.clear()
    control = train_alone(folder_of(donor), two, **settings)
    print(f"{once} with a shared trunk, {sum(seen)} without")
    assert shared.metrics["trunk_samples"] == 100
    # Beside the 100: one to learn the features' form, and the package's 40 golden samples with one to learn theirs.
    assert once == 100 + 1 + 41
    assert sum(seen) > 5 * 60
    before, after = donor.model().state_dict(), weights(shared)
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("output."))
    assert {"test_accuracy_0", "test_accuracy_1"} <= set(shared.metrics)
    assert control.metrics["test_accuracy"] > 0


def test_a_resumed_run_with_a_frozen_trunk_takes_the_features_that_it_has_kept(
    donor: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 16, "initial_model": donor.digest, "freeze_trunk": True}
    whole = train_alone(folder_of(donor), odd_or_even(), **settings)
    half = whole.of_kind("checkpoint")[1]["manifest"]
    from services.trainer.worker import trunk

    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("the trunk is computed again")

    monkeypatch.setattr(trunk, "_features", refuse)
    resumed = train_alone(folder_of(donor), odd_or_even(), resume=half, **settings)
    assert resumed.package.files["weights.safetensors"] == whole.package.files["weights.safetensors"]
    assert resumed.metrics == whole.metrics
    with pytest.raises(AssertionError):
        train_alone(folder_of(donor), odd_or_even(), **settings)


def test_a_dataset_of_another_kind_is_refused_naming_both(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="the kind table, and image_classifier takes images"):
        train_alone(tmp_path, LOANS)
