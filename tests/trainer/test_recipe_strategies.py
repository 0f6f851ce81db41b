"""Every recipe under every way of dividing it, by the job's setting alone: the same losses as of one rank."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from lepton import data
from lepton.recipes import RECIPES
from services.agent.launcher import Exit, LauncherClient
from tests.harness import datasets
from tests.harness.gang import Workplace, make_workplace, start_gang

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.integration]

SMALL: dict[str, tuple[data.AnyDataset, dict[str, Any]]] = {
    "image_classifier": (datasets.mnist_like(160, seed=2), {"model": {"features": 4, "hidden": 16}}),
    "text_classifier": (datasets.reviews(200, seed=2), {"model": {"vocabulary": 512, "width": 16}}),
    "language_model": (datasets.stories(4000, seed=2), {"model": {"width": 16, "context": 16}}),
    "forecaster": (datasets.seasons(300, seed=2), {"model": {"hidden": 16}}),
    "recommender": (datasets.tastes(400, seed=2), {"batch_size": 64}),
    "risk_model": (datasets.loans(300, seed=2), {"model": {"hidden": 16}}),
}
PLANS: dict[str, tuple[dict[str, Any], int]] = {
    "ddp": ({}, 2),
    "fsdp": ({"data": "FSDP"}, 2),
    "tensor": ({"tensor": 2}, 2),
    "pipeline": ({"pipeline": 2}, 2),
    "data and tensor": ({"tensor": 2}, 4),
    "parameter server": ({"data": "PARAMETER_SERVER"}, 3),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def launcher() -> AsyncIterator[LauncherClient]:
    async with LauncherClient(os.environ) as opened:
        await opened.ready()
        yield opened


def workplace(folder: Path, dataset: data.AnyDataset) -> Workplace:
    folder.mkdir()
    return make_workplace(folder, dataset)


async def losses(launcher: LauncherClient, folder: Path, recipe: str, plan: dict[str, Any], ranks: int) -> list[float]:
    """The validation and test losses of one epoch."""
    dataset, settings = SMALL[recipe]
    place = await asyncio.to_thread(workplace, folder, dataset)
    spec = place.spec(recipe=recipe, epochs=1, **settings)
    env = {**place.env(spec), "LEPTON_PARALLELISM": json.dumps(plan)}
    gang = await start_gang(launcher, world_size=ranks, folder=folder, env=env)
    assert await gang.finish() == [Exit(code=0)] * ranks, gang.errors
    metrics = gang.of_kind("package")[0]["metrics"]
    return [metrics["validation_loss"], metrics["test_loss"]]


@pytest.mark.parametrize(("recipe", "plan"), [("image_classifier", "pipeline"), ("language_model", "fsdp")])
async def test_a_recipe_is_divided_by_its_jobs_setting(
    launcher: LauncherClient, tmp_path: Path, recipe: str, plan: str
) -> None:
    alone = await losses(launcher, tmp_path / "alone", recipe, {}, 1)
    assert await losses(launcher, tmp_path / "divided", recipe, *PLANS[plan]) == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
async def test_every_recipe_has_the_losses_of_one_rank_under_every_strategy(
    launcher: LauncherClient, tmp_path: Path, recipe: str
) -> None:
    alone = await losses(launcher, tmp_path / "alone", recipe, {}, 1)
    for name, (plan, ranks) in PLANS.items():
        divided = await losses(launcher, tmp_path / name.replace(" ", "-"), recipe, plan, ranks)
        print(recipe, name, alone, divided)
        # A parameter server's workers do not wait for each other, so that what they come to is near, not equal.
        tolerance = 0.25 if "PARAMETER_SERVER" in plan.values() else 1e-4
        assert divided == pytest.approx(alone, rel=tolerance), name
