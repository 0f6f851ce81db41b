"""A process that has called over TLS ends at once when it is done."""

import asyncio
import subprocess
import sys
import textwrap
import time
from typing import Final

import pytest

from tests.harness.mesh import serving

pytestmark = pytest.mark.integration

HELD_S: Final = 2.0  # by gRPC, in a process that still holds a call over TLS

PROGRAM: Final = """
    import asyncio, atexit, sys, time

    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from lepton import channel

    address, bundle, releases = sys.argv[1:]

    async def call() -> None:
        async with channel.connect(address, trust_bundle_pem=bundle.encode(), server_name="trainer") as opened:
            made = health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=30)
            await made
            circle = [made]
            circle.append(circle)

    asyncio.run(call())
    if releases == "no":
        atexit.unregister(channel.release)
    atexit.register(lambda: print(time.monotonic(), flush=True))
"""


async def last_moment_s(releases: str) -> float:
    """From the last that Python does to the end of the process."""
    async with serving() as mesh:
        address = f"127.0.0.1:{mesh.server.ports['client']}"
        arguments = [address, mesh.authority.bundle_pem.decode(), releases]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments, stdout=subprocess.PIPE
        )
        told, _ = await process.communicate()
        ended = time.monotonic()
    assert process.returncode == 0
    return ended - float(told)


@pytest.mark.parametrize("releases", ["yes", "no"])
async def test_a_process_that_has_called_over_tls_ends_at_once(releases: str) -> None:
    """The quickest of some, for a machine may be busy; the control keeps the call that it made."""
    took_s = HELD_S
    for _ in range(5 if releases == "yes" else 1):
        took_s = min(took_s, await last_moment_s(releases))
        if took_s < HELD_S:
            break
    assert (took_s < HELD_S) == (releases == "yes")
