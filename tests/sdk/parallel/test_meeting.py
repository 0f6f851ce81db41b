"""Ranks that do not come, or do not pass the check before training, are named."""

from pathlib import Path

import pytest

from services.agent.launcher import Exit, LauncherClient
from tests.harness.gang import start_gang

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.integration]


@pytest.mark.parametrize(
    ("way", "said"),
    [("check", "well"), ("stall", "Unavailable PREFLIGHT_FAILED 1")],
)
async def test_a_rank_that_takes_no_part_in_the_check_is_named(
    launcher: LauncherClient, tmp_path: Path, way: str, said: str
) -> None:
    env = {"LEPTON_PREFLIGHT": "1"} if way == "check" else {}
    gang = await start_gang(
        launcher,
        world_size=2,
        folder=tmp_path,
        entry="tests.harness.ranks.meeting",
        argv=(way, str(tmp_path)),
        env=env,
    )
    assert await gang.finish() == [Exit(code=0)] * 2, gang.errors
    assert gang.output == {0: f"{said}\n", 1: "well\n"}


async def test_a_rank_that_never_comes_is_named(launcher: LauncherClient, tmp_path: Path) -> None:
    gang = await start_gang(
        launcher,
        world_size=1,
        folder=tmp_path,
        entry="tests.harness.ranks.meeting",
        argv=("alone", str(tmp_path)),
        env={"WORLD_SIZE": "3"},
    )
    assert await gang.finish() == [Exit(code=0)], gang.errors
    assert gang.output == {0: "Unavailable GANG_INCOMPLETE 1, 2\n"}
