"""`lepton nodes`, `lepton pools` and `lepton usage` against servers in this process."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lepton.cli import exits
from lepton.cli.marks import apply_labels, apply_taints, rule
from lepton.cli.root import app
from lepton.cli.usage import sparkline
from lepton.client import AsyncClient, Client
from lepton.errors import Aborted
from lepton.scheduler.v1.node_pb2 import Node, Taint
from lepton.scheduler.v1.planning_service_pb2 import GetUtilizationResponse
from lepton.scheduler.v1.pool_pb2 import MembershipRule, Pool
from lepton.scheduler.v1.resources_pb2 import Resources
from tests.harness.small_lepton import PASSWORD, SmallLepton

N1 = "pools/general/nodes/n1"
Run = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        capacity = Resources(cpu_milli=8000, memory_bytes=8 << 30, storage_bytes=100 << 30, network_mbps=10000)
        for name in ("n1", "n2"):
            serving.table(Node).put(
                Node(
                    name=f"pools/general/nodes/{name}",
                    state=Node.READY,
                    capacity=capacity,
                    labels={"topology.lepton.dev/rack": "r1"},
                )
            )
        serving.table(Pool).put(Pool(name="pools/general"))
        yield serving


@pytest.fixture
def run(world: SmallLepton, tmp_path: Path) -> Run:
    """Run a command, signed in by API key."""

    async def invoke(*argv: str) -> Any:
        environment = {
            "LEPTON_PROFILE": str(tmp_path / "profile.toml"), "LEPTON_API_KEY": "lpk_good",
            "LEPTON_HOME": None, "LEPTON_PROJECT": None, "LEPTON_TRACE": None,
        }  # fmt: skip
        return await asyncio.to_thread(CliRunner().invoke, app, list(argv), env=environment)

    return invoke


async def test_nodes_are_cordoned_labelled_and_tainted(run: Run, world: SmallLepton) -> None:
    nodes = world.table(Node)
    assert (await run("nodes", "cordon", "general/n1", "pools/general/nodes/n2")).exit_code == 0
    assert [nodes.get(f"pools/general/nodes/{each}").state for each in ("n1", "n2")] == [Node.CORDONED] * 2
    assert (await run("nodes", "uncordon", "general/n1")).exit_code == 0
    assert nodes.get(N1).state == Node.READY
    assert (await run("nodes", "label", "general/n1", "owner=ops", "size=big")).exit_code == 0
    labelled = json.loads((await run("nodes", "label", "general/n1", "size-", "-o", "json")).stdout)
    assert labelled["labels"] == {"topology.lepton.dev/rack": "r1", "owner": "ops"}
    assert (await run("nodes", "taint", "general/n1", "lepton.dev/repair=yes:NoExecute", "spot")).exit_code == 0
    assert list(nodes.get(N1).taints) == [
        Taint(key="lepton.dev/repair", value="yes", effect=Taint.NO_EXECUTE),
        Taint(key="spot", effect=Taint.NO_SCHEDULE),
    ]
    wide = (await run("nodes", "get", "general/n1", "-o", "wide")).stdout
    for words in ("100 GiB", "10000 Mbit/s", "owner=ops", "lepton.dev/repair=yes:NO_EXECUTE,spot:NO_SCHEDULE"):
        assert words in wide
    assert (await run("nodes", "taint", "general/n1", "spot-")).exit_code == 0
    assert len(nodes.get(N1).taints) == 1
    for wrong in (
        ("label", "general/n1", "novalue"),
        ("taint", "general/n1", "key:SOMETIMES"),
        ("taint", "general/n1", ":"),
    ):
        assert (await run("nodes", *wrong)).exit_code == exits.USAGE
    assert (await run("nodes", "cordon", "general/none")).exit_code == 15


async def test_a_pool_gets_a_class_and_a_rule(run: Run, world: SmallLepton) -> None:
    pools = world.table(Pool)
    changed = await run(
        "pools", "update", "general", "--class", "spot", "--label", "team=a", "--match", "tier=fast",
        "--at-least", "cpu=16", "--at-least", "memory=64Gi", "--model", "H200", "--precedence", "10", "-o", "wide",
    )  # fmt: skip
    assert changed.exit_code == 0, changed.stderr
    assert "tier=fast cpu_milli>=16000 memory_bytes>=68719476736 H200 (10)" in changed.stdout
    pool = pools.get("pools/general")
    assert (getattr(pool, "class"), dict(pool.labels)) == (Pool.SPOT, {"team": "a"})
    assert pool.membership == MembershipRule(
        match_labels={"tier": "fast"},
        at_least=Resources(cpu_milli=16000, memory_bytes=64 << 30, device_models=["H200"]),
        precedence=10,
    )
    assert (await run("pools", "update", "general", "--label", "team-")).exit_code == 0
    assert pools.get("pools/general").HasField("membership")
    assert (await run("pools", "update", "general", "--no-rule")).exit_code == 0
    assert not pools.get("pools/general").HasField("membership")
    for wrong in ((), ("--no-rule", "--precedence", "1"), ("--at-least", "gpus=1"), ("--at-least", "cpu=many")):
        assert (await run("pools", "update", "general", *wrong)).exit_code == exits.USAGE


async def test_a_change_is_made_again_when_others_were_faster(world: SmallLepton) -> None:
    async with AsyncClient(world.profile, user="admin", password=PASSWORD) as client:
        tries = 0

        def label(node: Node) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                world.table(Node).change(N1, state=Node.CORDONED)
            node.labels["a"] = "1"

        changed = await client.nodes.change("general/n1", label, ["labels"])
        assert (tries, changed.state, changed.labels["a"]) == (2, Node.CORDONED, "1")
        world.fail("UpdateNode", Aborted("ETAG_MISMATCH", name=N1), times=8)
        with pytest.raises(Aborted):
            await client.nodes.change(N1, label, ["labels"])


async def test_use_is_shown_with_its_course_and_bottleneck(run: Run, world: SmallLepton) -> None:
    answer = GetUtilizationResponse(bottleneck="device_milli", message="The number of devices limits pools/general.")
    series = answer.series.add(resource="device_milli", capacity=8000, trend_per_hour=0.125)
    now = int(time.time())
    for at in range(61):
        point = series.points.add(allocated=8000 * at / 60, used=0, wanted=2000)
        point.time.seconds = now - 60 * (60 - at)
    world.utilization["pools/general"] = answer
    shown = await run("usage", "general", "--since", "1h")
    assert shown.exit_code == 0, shown.stderr
    header, row, message = shown.stdout.splitlines()
    assert header.split("  ")[0] == "RESOURCE"
    for words in ("8 devices", "2 devices", "+12.5 %", "▁▁▂", "▇██"):
        assert words in row
    assert message == answer.message
    assert json.loads((await run("usage", "pools/general", "-o", "json")).stdout)["bottleneck"] == "device_milli"
    asked = world.requests("GetUtilization")[-1]
    assert (asked.name, asked.step_s) == ("pools/general", 0)
    assert abs(asked.start_time.seconds - (now - 3600)) < 60
    assert (await run("usage", "projects/none")).exit_code == 15
    assert (await run("usage", "general", "--since", "soon")).exit_code == exits.USAGE


async def test_the_blocking_client_has_the_same_methods(world: SmallLepton) -> None:
    def use() -> tuple[int, str]:
        with Client(world.profile, user="admin", password=PASSWORD) as client:
            state = client.nodes.cordon("general/n1").state
            return state, client.usage.get("general").message

    world.utilization["pools/general"] = GetUtilizationResponse(message="Nothing is short.")
    assert await asyncio.to_thread(use) == (Node.CORDONED, "Nothing is short.")


def test_a_sparkline_has_gaps_where_nothing_was_sampled() -> None:
    assert sparkline([(0, 0), (1, 50), (3, 100)], 0, 4, 100, width=4) == "▁▅ █"
    assert sparkline([], 0, 4, 100, width=3) == "   "
    assert sparkline([(0, 200), (4, -5)], 0, 4, 100, width=2) == "█▁"
    assert sparkline([(0, 5)], 0, 4, 0, width=1) == " "


def test_marks_are_read_as_people_write_them() -> None:
    labels = {"a": "1", "b": "2"}
    apply_labels(labels, ["a=3", "b-", "c=x=y"])
    assert labels == {"a": "3", "c": "x=y"}
    node = Node(taints=[Taint(key="k", effect=Taint.NO_SCHEDULE), Taint(key="k", effect=Taint.NO_EXECUTE)])
    apply_taints(node, ["k:NO_EXECUTE-"])
    assert [each.effect for each in node.taints] == [Taint.NO_SCHEDULE]
    apply_taints(node, ["k-", "l:prefer_no_schedule"])
    assert [(each.key, each.effect) for each in node.taints] == [("l", Taint.PREFER_NO_SCHEDULE)]
    made = rule(["a=1"], ["devices=2", "network=100"], [], 1)
    assert (made.at_least.device_milli, made.at_least.network_mbps) == (2000, 100)
    with pytest.raises(typer.BadParameter):
        rule(["a"], [], [], 0)
