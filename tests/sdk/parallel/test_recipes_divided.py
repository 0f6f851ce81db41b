"""The built-in program under every plan: its model learns, is saved, and is packaged."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.agent.launcher import Exit, LauncherClient
from tests.harness.gang import make_workplace, start_gang

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]


@pytest.mark.parametrize(
    ("ranks", "plan"),
    [
        (2, {"pipeline": 2}),
        (2, {"tensor": 2}),
        (2, {"data": "FSDP"}),
        (4, {"data": "FSDP", "pipeline": 2}),
        (3, {"data": "PARAMETER_SERVER"}),
    ],
)
async def test_a_recipe_trains_under_every_plan(
    launcher: LauncherClient, tmp_path: Path, ranks: int, plan: dict[str, Any]
) -> None:
    place = make_workplace(tmp_path)
    env = {**place.env(place.spec(epochs=6)), "LEPTON_PARALLELISM": json.dumps(plan)}
    gang = await start_gang(launcher, world_size=ranks, folder=tmp_path, env=env)
    assert await gang.finish() == [Exit(code=0)] * ranks, gang.errors
    (package,) = gang.of_kind("package")
    assert package["metrics"]["test_accuracy"] > 0.9
    assert gang.of_kind("checkpoint")
    assert not gang.of_kind("checkpoint_failed")
    resumed = await start_gang(
        launcher,
        world_size=2,
        folder=tmp_path,
        generation=2,
        env=place.env(place.spec(epochs=6), resume=gang.of_kind("checkpoint")[0]["manifest"]),
    )
    assert await resumed.finish() == [Exit(code=0)] * 2, resumed.errors
    (package,) = resumed.of_kind("package")
    assert package["metrics"]["test_accuracy"] > 0.9  # the same by DDP, from what the plan saved first
