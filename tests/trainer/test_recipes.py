"""Every recipe trained for real on small data: each beats the best simple guess by a stated margin."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from lepton import data
from lepton.data.tokens import hashed
from lepton.recipes import RECIPES
from services.trainer.worker.recipes import task
from tests.harness import datasets
from tests.harness.alone import Trained, train_alone

pytestmark = pytest.mark.integration

TEXTS, STORIES, SEASONS = datasets.reviews(600, seed=3), datasets.stories(20_000, seed=3), datasets.seasons(900, seed=3)
TASTES, LOANS, DIGITS = datasets.tastes(4000, seed=3), datasets.loans(2000, seed=3), data.digits()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Trains each recipe once."""
    given: dict[str, tuple[data.AnyDataset, dict[str, Any]]] = {
        "image_classifier": (DIGITS, {"epochs": 6, "batch_size": 32}),
        "text_classifier": (TEXTS, {}),
        "language_model": (STORIES, {"batch_size": 16}),
        "forecaster": (SEASONS, {"epochs": 10}),
        "recommender": (TASTES, {}),
        "risk_model": (LOANS, {"epochs": 10}),
    }
    assert set(given) == set(RECIPES)

    @cache
    def train(recipe: str) -> Trained:
        dataset, settings = given[recipe]
        return train_alone(tmp_path_factory.mktemp(recipe), dataset, recipe=recipe, **settings)

    return train


def test_images_are_told_apart_where_the_commonest_class_is_a_tenth(trained: Callable[[str], Trained]) -> None:
    assert trained("image_classifier").metrics["test_accuracy"] >= 0.97


def test_texts_are_told_apart_where_single_words_say_nothing(trained: Callable[[str], Trained]) -> None:
    """The baseline is a linear model over counted words: it cannot see what `not` belongs to."""
    from sklearn.linear_model import LogisticRegression

    counts = np.zeros((len(TEXTS), 256))
    for row, tokens in enumerate(hashed(TEXTS.texts, vocabulary=256, length=64)):
        np.add.at(counts[row], tokens[tokens > 0], 1)
    parts = data.partition(len(TEXTS), test_fraction=0.2, validation_fraction=0.1, seed=0)
    linear = LogisticRegression(max_iter=500).fit(counts[parts.train], TEXTS.y[parts.train])
    baseline = linear.score(counts[parts.test], TEXTS.y[parts.test])
    accuracy = trained("text_classifier").metrics["test_accuracy"]
    print(f"counted words {baseline:.3f}, text_classifier {accuracy:.3f}")
    assert baseline < 0.7
    assert accuracy >= 0.9


def test_text_is_continued_better_than_from_the_last_letter(trained: Callable[[str], Trained]) -> None:
    """The baseline knows how often each letter follows each other, of the very text that is tested on."""
    letters = STORIES.content[-4000:].astype(int)
    pairs = np.bincount(letters[:-1] * 256 + letters[1:], minlength=65536).reshape(256, 256)
    shares = pairs / np.maximum(pairs.sum(1, keepdims=True), 1)
    bigram = math.exp(-np.mean(np.log(shares[letters[:-1], letters[1:]])))
    perplexity = trained("language_model").metrics["test_perplexity"]
    print(f"letter pairs {bigram:.2f}, language_model {perplexity:.2f}")
    assert perplexity < 0.8 * bigram


def test_series_are_continued_better_than_by_the_value_of_a_season_before(trained: Callable[[str], Trained]) -> None:
    window, horizon = 48, 12
    starts = task(trained("forecaster").spec, SEASONS).division.test.numpy()
    past, coming = SEASONS.values, []
    seasonal = [past[s + window - 24 : s + window - 24 + horizon] for s in starts]
    coming = [past[s + window : s + window + horizon] for s in starts]
    baseline = float(np.sqrt(np.mean(np.square(np.stack(seasonal) - np.stack(coming)))))
    rmse = trained("forecaster").metrics["test_rmse"]
    print(f"a season before {baseline:.3f}, forecaster {rmse:.3f}")
    assert rmse < 0.9 * baseline


def test_ratings_are_foretold_better_than_by_the_means_of_user_and_item(trained: Callable[[str], Trained]) -> None:
    parts = data.partition(len(TASTES), test_fraction=0.2, validation_fraction=0.1, seed=0)
    pairs, ratings = TASTES.pairs[parts.train], TASTES.ratings[parts.train]
    mean = ratings.mean()
    user = np.array([(ratings[pairs[:, 0] == number] - mean).mean() for number in range(len(TASTES.users))])
    item = np.array([(ratings[pairs[:, 1] == number] - mean).mean() for number in range(len(TASTES.items))])
    test = TASTES.pairs[parts.test]
    guess = mean + user[test[:, 0]] + item[test[:, 1]]
    baseline = float(np.sqrt(np.mean(np.square(guess - TASTES.ratings[parts.test]))))
    rmse = trained("recommender").metrics["test_rmse"]
    print(f"means {baseline:.3f}, recommender {rmse:.3f}")
    assert rmse < 0.6 * baseline


def test_risks_are_foretold_where_one_branch_is_the_other_way_round(trained: Callable[[str], Trained]) -> None:
    """Always `repaid` is right in four of five cases, and ranks none before another."""
    metrics = trained("risk_model").metrics
    print(f"risk_model accuracy {metrics['test_accuracy']:.3f}, auc {metrics['test_auc']:.3f}")
    assert metrics["test_accuracy"] >= 0.88
    assert metrics["test_auc"] >= 0.93


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_reports_curves_of_all_parts_and_packages_what_it_measured(
    trained: Callable[[str], Trained], recipe: str
) -> None:
    run = trained(recipe)
    assert run.is_finished
    assert len(run.curve("validation_loss")) == run.spec.epochs
    assert run.curve("loss")
    assert run.curve("learning_rate")
    assert all(line["total_steps"] > 0 for line in run.of_kind("metrics"))
    assert {"test_loss", "validation_loss", "loss"} <= set(run.metrics)
    assert run.package.metrics == run.metrics
    assert run.package.lineage["recipe"] == recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_packaged_weights_give_the_golden_outputs(trained: Callable[[str], Trained], recipe: str) -> None:
    from safetensors.torch import load

    run = trained(recipe)
    golden, name = load(run.file("golden.safetensors")), run.package.signature.outputs[0].name
    assert len(golden["x"]) == len(golden[name]) >= 16
    with torch.no_grad():
        assert torch.allclose(run.model()(golden["x"]), golden[name], atol=1e-5)


def test_the_area_under_the_curve_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    from services.trainer.worker.measures import Classes

    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(500, 2, generator=generator)
    targets = (torch.rand(500, generator=generator) < torch.sigmoid(outputs[:, 1] - outputs[:, 0])).long()
    measure = Classes((2,))
    found = measure.metrics(0.0, 500, measure.tally(outputs, targets).tolist())
    assert found["auc"] == pytest.approx(roc_auc_score(targets, outputs[:, 1] - outputs[:, 0]), abs=2e-3)
