"""`lepton why` and `lepton what-if` against servers in this process: what is asked, and what is shown."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lepton.cli import exits
from lepton.cli.root import app
from lepton.client import AsyncClient, Client
from lepton.errors import NotFound
from lepton.scheduler.v1.planning_service_pb2 import (
    AddNodes,
    Change,
    ExplainWorkloadResponse,
    Gap,
    StartEstimate,
    WhatIfResponse,
)
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job
from tests.harness.small_lepton import SmallLepton

NAME = "projects/acme/workloads/digits-0a1b2c3d"
NODE = "pools/general/nodes/n1"
Run = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        yield serving


@pytest.fixture
def run(world: SmallLepton, tmp_path: Path) -> Run:
    async def invoke(*argv: str) -> Any:
        given = {"LEPTON_PROFILE": str(tmp_path / "profile.toml"), "LEPTON_API_KEY": "lpk_good", "LEPTON_PROJECT": None}
        return await asyncio.to_thread(CliRunner().invoke, app, list(argv), env=given)

    return invoke


def waiting() -> ExplainWorkloadResponse:
    start = StartEstimate(basis="1 of 1 running workloads say how long they run")
    start.p50.FromDatetime(datetime.now(UTC) + timedelta(minutes=10, seconds=30))
    start.p90.FromDatetime(datetime.now(UTC) + timedelta(hours=2, seconds=30))
    return ExplainWorkloadResponse(
        reason=Workload.WAITING_FOR_CAPACITY,
        message="pools/general has room for 1 of 2 slices",
        gaps=[Gap(pool="pools/general", resource="device_milli", needed=2000, available=1000)],
        blockers=["projects/acme/workloads/big"],
        changes=[
            Change(add_nodes=AddNodes(like=NODE, count=1), description=f"add 1 node like {NODE}"),
            Change(remove_workload=NAME, description=f"remove {NAME}"),
        ],
        start=start,
        position=3,
        revision=42,
    )


async def test_why_a_job_waits(run: Run, world: SmallLepton) -> None:
    world.table(Job).put(Job(name="projects/acme/jobs/digits", workload=NAME))
    world.explanations[NAME] = waiting()
    told = await run("why", "digits")
    assert told.exit_code == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0] == f"{NAME} waits: WAITING_FOR_CAPACITY (number 3 in its queue)"
    assert "  in the way: projects/acme/workloads/big" in lines
    assert f"  smallest change: add 1 node like {NODE}; remove {NAME}" in lines
    (start,) = [line for line in lines if line.startswith("  may start: ")]
    assert start.startswith("  may start: in 10m")
    assert "nine times in ten in 2h" in start
    assert lines[-2].split() == ["SHORT", "OF", "WHERE", "NEEDED", "AVAILABLE", "MISSING"]
    assert lines[-1].split() == ["device_milli", "pools/general", "2", "dev", "1", "dev", "1", "dev"]
    whole = json.loads((await run("why", "projects/acme/jobs/digits", "-o", "json")).stdout)
    assert (whole["workload"], whole["reason"], whole["revision"]) == (NAME, "WAITING_FOR_CAPACITY", "42")
    assert whole["changes"][0]["add_nodes"]["count"] == 1


async def test_why_of_a_workload_that_runs_says_so(run: Run, world: SmallLepton) -> None:
    world.table(Workload).put(Workload(name=NAME, state=Workload.RUNNING))
    world.explanations[NAME] = ExplainWorkloadResponse(message="it runs: 2 slices on 1 node of pools/general")
    told = await run("why", NAME.rpartition("/")[2])  # no job has this id, a workload has
    assert told.stdout == f"{NAME}: it runs: 2 slices on 1 node of pools/general\n"


async def test_why_without_anything_known_says_that(run: Run, world: SmallLepton) -> None:
    world.explanations[NAME] = ExplainWorkloadResponse(reason=Workload.ON_HOLD, message="its queue is on hold")
    told = (await run("why", NAME)).stdout
    assert "smallest change: none is known" in told
    assert "may start: not known" in told
    assert "SHORT OF" not in told


async def test_why_of_what_is_not_there(run: Run, world: SmallLepton) -> None:
    assert (await run("why", "none")).exit_code == 15
    assert (await run("why", "projects/acme/jobs/none")).exit_code == 15
    world.table(Job).put(Job(name="projects/acme/jobs/young"))
    young = await run("why", "young")
    assert young.exit_code == 19
    assert "JOB_WITHOUT_WORKLOAD" in young.stderr


async def test_what_if_shows_what_would_differ(run: Run, world: SmallLepton) -> None:
    world.what_if = WhatIfResponse(
        revision=7,
        outcomes=[
            WhatIfResponse.Outcome(workload="projects/acme/workloads/a", state=Workload.ASSIGNED, slices=4),
            WhatIfResponse.Outcome(
                workload="projects/acme/workloads/b",
                state=Workload.PENDING,
                reason=Workload.WAITING_FOR_CAPACITY,
                preempted=True,
            ),
        ],
    )
    told = (await run("what-if", "add-nodes", NODE, "--count", "4")).stdout.splitlines()
    assert told[1].split() == ["projects/acme/workloads/a", "ASSIGNED", "4", "-", "-"]
    assert told[2].split() == ["projects/acme/workloads/b", "PENDING", "0", "yes", "WAITING_FOR_CAPACITY"]
    (asked,) = world.requests("WhatIf")
    assert (asked.parent, asked.changes[0].add_nodes.like, asked.changes[0].add_nodes.count) == (
        "projects/acme",
        NODE,
        4,
    )
    whole = json.loads((await run("what-if", "remove", NODE, "-A", "-o", "json")).stdout)
    assert (whole["revision"], len(whole["outcomes"])) == ("7", 2)
    assert (world.requests("WhatIf")[1].parent, world.requests("WhatIf")[1].changes[0].remove_node) == (
        "projects/-",
        NODE,
    )


async def test_what_if_asks_for_every_kind_of_change(run: Run, world: SmallLepton, tmp_path: Path) -> None:
    world.table(Workload).put(Workload(name=NAME))
    (tmp_path / "gang.yaml").write_text("kind: BATCH\ngroups: [{name: worker, min_count: 3}]\n")
    (tmp_path / "bad.yaml").write_text("kind: NOTHING\n")
    for argv in (
        ["submit", "--slices", "8", "--devices", "0.5", "--cpu", "2", "--pool", "fast", "--queue", "research"],
        ["submit", "--file", str(tmp_path / "gang.yaml")],
        ["set-quota", "research", "device_milli", "16000", "--pool", "fast", "--borrowing-limit", "0"],
        ["set-floating-resource", "licences", "8"],
        ["remove", "digits-0a1b2c3d"],
    ):
        told = await run("what-if", *argv)
        assert (told.exit_code, told.stdout, told.stderr) == (0, "", "nothing would change\n")
    changes = [each.changes[0] for each in world.requests("WhatIf")]
    wanted = changes[0].submit
    assert (wanted.groups[0].min_count, wanted.groups[0].resources.device_milli) == (8, 500)
    assert wanted.groups[0].HasField("program"), "no workload is taken without one"
    assert (wanted.groups[0].resources.cpu_milli, list(wanted.pools), wanted.queue) == (
        2000,
        ["pools/fast"],
        "queues/research",
    )
    assert (changes[1].submit.kind, changes[1].submit.groups[0].min_count) == (Workload.BATCH, 3)
    quota = changes[2].set_quota
    assert (quota.queue, quota.quota.nominal, quota.quota.pool) == ("queues/research", 16000, "pools/fast")
    assert quota.quota.borrowing_limit == 0
    assert not quota.quota.HasField("lending_limit")
    assert changes[3].set_floating_resource.name == "floatingResources/licences"
    assert changes[4].remove_workload == NAME
    assert (await run("what-if", "submit", "--file", str(tmp_path / "bad.yaml"))).exit_code == exits.USAGE


async def test_programs_ask_too(world: SmallLepton) -> None:
    world.explanations[NAME] = waiting()
    async with AsyncClient(world.profile, api_key="lpk_good") as client:
        assert (await client.explain.why(NAME)).position == 3
        with pytest.raises(NotFound):
            await client.explain.why("none")
        await client.explain.what_if([Change(remove_node=NODE)], project="-")
    assert world.requests("WhatIf")[0].parent == "projects/-"

    def use() -> int:
        with Client(world.profile, api_key="lpk_good") as blocking:
            blocking.explain.what_if([Change(remove_node=NODE)])
            return blocking.explain.why(NAME).position

    assert await asyncio.to_thread(use) == 3
