"""`lepton why`, `lepton what-if` and `lepton plan` against a real scheduler: a job as its user knows it, over real RPC.

The job's own service and the sign-in are small ones in this process; the workload is made as the trainer makes it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lepton.auth.v1.session_service_pb2 import Session
from lepton.cli.root import app
from lepton.profile import write
from lepton.scheduler.v1.workload_pb2 import Workload as WorkloadProto
from lepton.trainer.v1.job_pb2 import Job, Recipe, Workers
from services.trainer.workload import workload_request
from tests.harness.agent import ScriptedAgent
from tests.harness.scheduling import Replica, program
from tests.harness.scheduling import workload as proto
from tests.harness.small_lepton import SmallLepton

NODE = "pools/general/nodes/n1"
Run = Callable[..., Coroutine[Any, Any, str]]


@pytest.fixture
async def world(tmp_path: Path, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SmallLepton]:
    """A small Lepton, but for its scheduler, which is the real one; it believes in its tokens."""
    monkeypatch.setattr("tests.harness.small_lepton.servers.Authority", lambda: replica.mesh.authority)
    async with SmallLepton.serving(tmp_path) as small:
        sign_in = small.sign_in

        def signed_in(principal: str, *, refreshable: bool) -> Session:
            session = sign_in(principal, refreshable=refreshable)
            own, session.access_token = session.access_token, replica.mesh.signer.token("users/root")
            small.tokens[session.access_token] = small.tokens[own]
            return session

        monkeypatch.setattr(small, "sign_in", signed_in)
        scheduler = f"127.0.0.1:{replica.mesh.server.ports['client']}"
        small.profile = replace(small.profile, scheduler=scheduler)
        write(tmp_path / "profile.toml", small.profile)
        yield small


@pytest.fixture
def run(world: SmallLepton, tmp_path: Path) -> Run:
    async def invoke(*argv: str, exits: int = 0) -> str:
        given = {"LEPTON_PROFILE": str(tmp_path / "profile.toml"), "LEPTON_API_KEY": "lpk_good", "LEPTON_PROJECT": None}
        told = await asyncio.to_thread(CliRunner().invoke, app, list(argv), env=given)
        assert told.exit_code == exits, told.output
        return told.stdout

    return invoke


@pytest.fixture
async def agent(replica: Replica) -> AsyncIterator[ScriptedAgent]:
    async with ScriptedAgent(NODE, devices=2) as connected:
        yield await replica.connect(connected)


async def digits(replica: Replica, world: SmallLepton, **fields: Any) -> WorkloadProto:
    """A job, and the workload that the trainer gives it."""
    job = Job(
        name="projects/acme/jobs/digits",
        uid="0a1b2c3d-0000-4000-8000-000000000000",
        recipe=Recipe(name="image_classifier"),
        workers=Workers(count=2),
        **fields,
    )
    workload: WorkloadProto = await replica.trainer.CreateWorkload(workload_request(job))
    job.workload = workload.name
    world.table(Job).put(job)
    return workload


async def test_why_a_job_waits_and_what_helps(
    replica: Replica, world: SmallLepton, agent: ScriptedAgent, run: Run
) -> None:
    big = await replica.submit("big", proto(2, disable_preemption=True, expected_duration_s=3600))
    await replica.until_state("big", WorkloadProto.RUNNING)
    waits = await digits(replica, world)
    lines = (await run("why", "digits")).splitlines()
    assert lines[0] == f"{waits.name} waits: WAITING_FOR_CAPACITY (number 1 in its queue)"
    assert "short of 2 devices (2 needed, 0 free)" in lines[1]
    assert lines[2] == f"  in the way: {big.name}"
    assert lines[3] == f"  smallest change: add 1 node like {NODE}"
    assert lines[4].startswith(("  may start: in 59m", "  may start: in 1h"))
    assert "nine times in ten in 1h" in lines[4] or "nine times in ten in 2h" in lines[4]
    assert lines[-1].split() == ["device_milli", "pools/general", "2", "dev", "0", "dev", "2", "dev"]
    answer = json.loads(await run("why", "projects/acme/jobs/digits", "-o", "json"))
    assert (answer["workload"], answer["reason"]) == (waits.name, "WAITING_FOR_CAPACITY")
    assert answer["changes"][0]["add_nodes"] == {"like": NODE, "count": 1}

    tried = (await run("what-if", "add-nodes", NODE)).splitlines()
    assert tried[1].split() == [waits.name, "ASSIGNED", "2", "-", "-"]
    assert (await replica.get(waits.name.rpartition("/")[2])).state == WorkloadProto.PENDING, "it was only asked"
    async with ScriptedAgent("pools/general/nodes/n2", devices=2) as second:  # and now it is really done
        await replica.connect(second)
        await replica.until_state(waits.name.rpartition("/")[2], WorkloadProto.RUNNING)
        assert (await run("why", "digits")).startswith(f"{waits.name}: it runs: 2 slices on 1 node")


async def test_several_changes_that_help_together(
    replica: Replica, world: SmallLepton, agent: ScriptedAgent, run: Run
) -> None:
    await replica.submit("big", proto(2, disable_preemption=True))
    await replica.until_state("big", WorkloadProto.RUNNING)
    waits = await digits(replica, world, floating_resources={"floatingResources/licence": 1})
    answer = json.loads(await run("why", "digits", "-o", "json"))
    assert answer["reason"] == "WAITING_FOR_FLOATING_RESOURCE"
    assert [each["description"] for each in answer["changes"]] == [
        "set floatingResources/licence to 1",
        f"add 1 node like {NODE}",
    ]
    alone = json.loads(await run("what-if", "set-floating-resource", "licence", "1", "-o", "json"))["outcomes"]
    assert [(each["workload"], each["reason"]) for each in alone] == [(waits.name, "WAITING_FOR_CAPACITY")]


async def test_what_another_workload_would_do(replica: Replica, agent: ScriptedAgent, run: Run) -> None:
    small = await replica.submit("small", proto(1))
    await replica.until_state("small", WorkloadProto.RUNNING)
    told = (await run("what-if", "submit", "--slices", "2", "--devices", "1", "--priority", "5")).splitlines()
    assert told[1].split()[:4] == ["projects/acme/workloads/what-if", "PENDING", "0", "-"]
    assert len(told) == 2, "it runs for too short a time to be stopped"
    left = json.loads(await run("what-if", "remove", small.name, "-o", "json"))
    assert [each["state"] for each in left["outcomes"]] == ["CANCELLED"]


async def test_the_fleets_own_pools_are_planned_with(replica: Replica, agent: ScriptedAgent, run: Run) -> None:
    await replica.submit("service", proto(1, kind=WorkloadProto.BATCH, runs=program("true")))
    await replica.until_state("service", WorkloadProto.RUNNING)
    free = json.loads(await run("plan", "allocation", "-d", "task:device_milli=1000", "-o", "json"))
    assert free["feasible"] is True
    assert free["grants"][0]["amounts"] == {"device_milli": 1000}
    taken = json.loads(await run("plan", "allocation", "-d", "task:device_milli=1500", "-o", "json", exits=1))
    assert (taken["feasible"], taken["grants"][0]["amounts"]) == (False, {"device_milli": 1000}), "the nearest plan"
    assert taken["violated"] == [
        "device_milli: task needs 1500 of any class, but pools/general (1 x 1000) has 1000: 500 short"
    ]
