"""A file that Envoy refuses is told, by its path and for as long as it is so."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chassis.clock import SystemClock
from services.inference.envoy import Endpoint, Route, Routes, Target, render, write
from services.inference.envoy.rejections import VERSION, Rejections, refused, versioned
from services.inference.routing import GatewayRouting
from tests.harness.serving import RunningGateway, gateway
from tests.harness.wait import until

ROUTES = Routes(
    routes=tuple(
        Route(model=model, targets=(Target(revision=1, endpoints=(Endpoint(host="127.0.0.1", port=1),)),))
        for model in ("demo.digits", "demo.faces")
    )
)


def test_a_file_is_refused_while_its_version_is_not_in_force_and_a_refusal_was_counted() -> None:
    counted = [
        {"name": "http.gateway.rds.models.update_rejected", "value": 3},
        {"name": "http.gateway.rds.models.version_text", "value": "old"},
        {"name": "cluster.demo.digits@r1.update_rejected", "value": 1},
        {"name": "cluster.demo.digits@r1.version_text", "value": "v2"},
        {"name": "cluster_manager.cds.update_rejected", "value": 0},
        {"name": "cluster_manager.cds.version_text", "value": "old"},
        {"name": "cluster.gone.update_rejected", "value": 1},
    ]
    written = {"rds.json": "new", "eds/demo.digits@r1.json": "v2", "cds.json": "on its way"}
    assert refused(counted, written) == {"rds.json"}
    assert versioned({"a": 1})[VERSION] == versioned({"a": 1})[VERSION] != versioned({"a": 2})[VERSION]


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with gateway(tmp_path / "envoy") as running_gateway:
        yield running_gateway


def spoilt(files: dict[str, bytes]) -> dict[str, bytes]:
    """A script that does not parse, and endpoints without an address."""
    policy, endpoints = "ecds/policy.json", "eds/demo.digits@r1.json"
    script = json.loads(files[policy])
    script["resources"][0]["typed_config"]["extension_config"]["typed_config"]["default_source_code"] = {
        "inline_string": "this is (no Lua"
    }
    odd = json.loads(files[endpoints])
    address = odd["resources"][0]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    address["socket_address"]["address"] = "no address"
    made = {policy: script, endpoints: odd}
    return {**files, **{path: json.dumps({**each, VERSION: "spoilt"}).encode() for path, each in made.items()}}


@pytest.mark.integration
async def test_what_a_real_envoy_refuses_is_told_until_it_is_mended(front: RunningGateway) -> None:
    rejections = Rejections(front.admin, SystemClock())
    routing = GatewayRouting(front.admin, SystemClock(), rejections)
    good = render(front.gateway, ROUTES)

    def put(files: dict[str, bytes]) -> None:
        write(front.gateway.directory, files)
        rejections.wrote(files)

    looking = asyncio.create_task(rejections.run())
    try:
        put(good)
        await until(lambda: front.admin.is_live())
        put(spoilt(good))
        await until(lambda: routing.refused("demo.digits") == ("ecds/policy.json", "eds/demo.digits@r1.json"), 20)
        assert routing.refused("demo.faces") == ("ecds/policy.json",), "another model's endpoints are not its own"
        await routing.refused_changed()
        put(good)
        await until(lambda: rejections.now == frozenset(), 20)
        await routing.refused_changed()
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
