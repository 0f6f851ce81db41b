"""`lepton plan` against servers in this process: the worked examples, every form, and what is said of mistakes."""

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lepton.cli import exits
from lepton.cli.plan_terms import figure, number
from lepton.cli.root import app
from lepton.client import AsyncClient, Client
from lepton.errors import InvalidArgument
from lepton.scheduler.v1.planning_service_pb2 import PlanAllocationRequest, PlanBalancingRequest
from tests.harness.small_lepton import SmallLepton

TASK = "task:cores=4000,storage=2T:general"
GENERAL = "general:8:cores=2000,storage=1T:GENERAL"
FAST = "fast:2:cores=2000,storage=1T:PERFORMANCE"
Run = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        yield serving


@pytest.fixture
def run(world: SmallLepton, tmp_path: Path) -> Run:
    async def invoke(*argv: str) -> Any:
        given = {"LEPTON_PROFILE": str(tmp_path / "profile.toml"), "LEPTON_API_KEY": "lpk_good", "LEPTON_HOME": None}
        return await asyncio.to_thread(CliRunner().invoke, app, ["plan", *argv], env={**given, "LEPTON_TRACE": None})

    return invoke


def documented() -> list[tuple[list[str], list[str]]]:
    """Every `$ lepton plan ...` of docs/scheduling.md, with the lines that follow it."""
    found: list[tuple[list[str], list[str]]] = []
    text = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text().replace("\\\n", "")
    block: list[str] = []
    for line in text.splitlines():
        if line.startswith("    $ lepton plan "):
            block = []
            found.append((shlex.split(line)[3:], block))
        elif line.startswith("    "):
            block.append(line[4:])
        else:
            block = []
    return found


async def test_the_documentation_shows_what_it_really_says(run: Run) -> None:
    examples = documented()
    assert len(examples) >= 10
    for argv, lines in examples:
        found = await run(*argv)
        said = sorted([*found.stdout.splitlines(), *found.stderr.splitlines()])
        assert [each.rstrip() for each in said] == sorted(lines), argv


async def test_four_thousand_cores_on_the_eight_general_machines(run: Run) -> None:
    found = await run("allocation", "-d", TASK, "-s", GENERAL, "-s", FAST)
    assert found.exit_code == 0, found.stderr
    assert found.stdout.splitlines() == [
        "DEMAND  SOURCE   AMOUNTS                 ON EACH NODE",
        "task    general  cores 4000, storage 2T  cores 500, storage 250G",
        "cost 2T",
    ]
    wide = (await run("allocation", "-d", TASK, "-s", GENERAL, "-o", "wide")).stdout
    assert "cores 100%, storage 100%" in wide
    assert (await run("allocation", "-d", TASK, "-s", GENERAL, "-o", "name")).stdout == "task/general\n"
    said = json.loads((await run("allocation", "-d", TASK, "-s", GENERAL, "-o", "json")).stdout)
    assert said["grants"][0]["per_node"] == {"cores": 500.0, "storage": 250e9}


async def test_a_shortage_is_shown_with_the_nearest_plan_and_fails(run: Run) -> None:
    found = await run("allocation", "-d", "task:cores=20000:GENERAL", "-s", GENERAL, "-s", FAST)
    assert found.exit_code == exits.FAILED
    assert found.stdout.splitlines()[1].split() == ["task", "general", "cores", "16000", "cores", "2000"]
    assert "task gets 80% of what it asks for" in found.stdout
    assert "cannot be held: cores: task needs 20000 of class GENERAL" in found.stderr


async def test_the_question_may_be_a_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "demands: [{name: task, amounts: {cores: 30}}]\n"
        "sources:\n"
        "- {name: spot, nodes: 1, class: SPOT, capacity: {cores: 20}, price: {cores: 0.25}}\n"
    )
    found = await run("allocation", "-f", str(path), "-s", "dear:1:cores=100:GENERAL:cores=2", "-o", "json")
    said = json.loads(found.stdout)
    assert (said["feasible"], said["cost"]) == (True, 25.0)
    path.write_text("demands: [{nam: task}]")
    assert (await run("allocation", "-f", str(path))).exit_code == exits.USAGE


async def test_ten_thousand_of_load_on_eight_thousand(run: Run) -> None:
    limits = ("--max-step", "5000", "--min-step", "1k", "--unit", "2500")
    found = await run("scaling", "--load", "10000", "--base", "8000", *limits)
    assert found.exit_code == 0, found.stderr
    assert found.stdout.splitlines() == [
        "TARGET  CHANGE  UNITS  LOAD PER UNIT  CARRIED",
        "10000   +2000   4      2500           yes",
    ]
    held = await run("scaling", "--load", "20000", "--base", "8000", *limits)
    assert held.exit_code == exits.FAILED
    assert "cannot be held: max_step: a step is at most 5000" in held.stderr
    named = await run("scaling", "--load", "5", "--base", "1", "-o", "name")
    assert named.stdout == "5\n"


async def test_a_policy_is_shown_before_it_is_used(run: Run) -> None:
    targets = ("-t", "big:5", "-t", "small", "-t", "other:1")
    found = await run("balance", "--policy", "weighted", *targets, "--requests", "700")
    assert found.exit_code == 0, found.stderr
    assert [each.split()[:4] for each in found.stdout.splitlines()[1:4]] == [
        ["big", "500", "71.4%", "71.4%"],
        ["small", "100", "14.3%", "14.3%"],
        ["other", "100", "14.3%", "14.3%"],
    ]
    for policy in ("round-robin", "least-connections", "power-of-two-choices"):
        said = json.loads((await run("balance", "--policy", policy, *targets, "-o", "json")).stdout)
        assert sum(each["requests"] for each in said["shares"]) == 1000


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("allocation",), "nothing is asked for"),
        (("allocation", "-d", "task"), "'task' cannot be read"),
        (("allocation", "-d", "task:cores"), "must be RESOURCE=AMOUNT"),
        (("allocation", "-d", "task:cores=lots"), "lots in --demand is no amount"),
        (("allocation", "-d", TASK, "-s", "general:many:cores=1"), "many is no number of nodes"),
        (("scaling", "--load", "-5", "--base", "1"), "no amount"),
        (("balance", "-t", "a", "-t", "a"), "a target is there twice"),
    ],
)
async def test_mistakes_are_explained(run: Run, argv: tuple[str, ...], said: str) -> None:
    failed = await run(*argv)
    assert failed.exit_code == exits.USAGE
    assert said in " ".join(failed.stderr.replace("│", " ").split())


async def test_what_the_server_refuses_names_the_field(run: Run) -> None:
    failed = await run("scaling", "--load", "5", "--base", "1", "--max-step", "1", "--min-step", "2")
    assert failed.exit_code == 13
    assert "min_step: must not exceed max_step (1)" in failed.stderr


def test_numbers_are_read_and_written_as_people_do() -> None:
    assert [number(text, "-") for text in ("4000", "2.5k", "2T", "1Ki", "1e3")] == [4000, 2500, 2e12, 1024, 1000]
    assert [figure(value) for value in (500.0, 0.25, 2e12, -1.5e6, 16000.0)] == ["500", "0.25", "2T", "-1.5M", "16000"]


async def test_the_clients_ask_the_same(world: SmallLepton) -> None:
    demand = PlanAllocationRequest.Demand(name="d", amounts={"cores": 3})
    source = PlanAllocationRequest.Source(name="s", nodes=2, capacity={"cores": 2})
    async with AsyncClient(world.profile, api_key="lpk_good") as client:
        found = await client.planning.allocation([demand], [source])
        assert found.grants[0].per_node["cores"] == 1.5
        assert (await client.planning.scaling(7, 4, unit=2)).units == 4
        with pytest.raises(InvalidArgument):
            await client.planning.scaling(7, 4, min_units=1)

    def blocking() -> list[int]:
        with Client(world.profile, api_key="lpk_good") as client:
            spread = client.planning.balancing(PlanBalancingRequest.ROUND_ROBIN, {"a": 1, "b": 9}, requests=10)
            return [each.requests for each in spread.shares]

    assert await asyncio.to_thread(blocking) == [5, 5]
