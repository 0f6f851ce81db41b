"""A model's only server stands still: its calls end by their deadlines, then are refused; other models hear nothing."""

import signal
import time
from pathlib import Path

import psutil
import pytest

from services.agent.replica_settings import ReplicaSettings
from services.inference.envoy import Route, Routes, Target
from tests.harness.gateway_caller import Caller, channel
from tests.harness.named_replica import named_replica
from tests.harness.serving import gateway, replica, served_model
from tests.harness.wait import until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]
MODEL, OTHER = "demo.digits", "demo.other"


async def test_a_stopped_triton_costs_its_own_callers_their_deadline_and_nobody_else_anything(tmp_path: Path) -> None:
    unwatched = ReplicaSettings(check_interval_s=100, check_s=100)  # by its agent: the gateway is alone with it
    async with (
        gateway(tmp_path / "envoy") as front,
        replica(tmp_path / "replica", [served_model(MODEL)], unwatched) as running,
        named_replica("other") as other,
        channel(front) as connection,
    ):
        await running.ready()
        targets = {MODEL: running.endpoint, OTHER: other.endpoint}
        await front.route(
            Routes(
                routes=tuple(
                    Route(model=name, targets=(Target(revision=1, endpoints=(endpoint,)),))
                    for name, endpoint in targets.items()
                )
            )
        )
        caller = Caller.of(connection, front.authority.token("demo"))
        await caller.infer(MODEL)
        (server,) = psutil.Process(running.replica.pid).children()
        server.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert (await caller.refused(MODEL, timeout=0.5))[0] == "DEADLINE_EXCEEDED"
            assert time.monotonic() - began < 10, "the deadline is the caller's, not the server's"
            assert (await caller.infer(OTHER)).message.id == "other"
            seen: list[tuple[str, str]] = []

            async def is_refused() -> bool:
                seen.append(await caller.refused(MODEL, timeout=0.5))
                assert (await caller.infer(OTHER)).message.id == "other"
                return seen[-1] == ("UNAVAILABLE", "NO_REPLICA")

            await until(is_refused, 40)
            assert {code for code, _ in seen} <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}, seen
        finally:
            server.send_signal(signal.SIGCONT)

        async def is_answered() -> bool:
            return await caller.refused(MODEL) == ("OK", "")

        await until(is_answered, 40)
