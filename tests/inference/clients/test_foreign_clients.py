"""KServe's and MLServer's own clients, each in a Python of its own where `bench.peers.environments` has made one."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.peers import environments
from tests.inference.clients.example_models import deployed
from tests.inference.clients.stack import Front, Stack

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(120)]
_FLOWS = Path(__file__).parent / "foreign"
RESULT = [[x + 1 for x in range(16)], [x - 1 for x in range(16)]]


async def seen(stack: Front, peer: str) -> dict[str, Any]:
    """What the flow of a peer's client saw; skips where the peer is not installed."""
    python = environments.found(peer)
    if python is None:
        pytest.skip(f"{peer} is not installed: python -m bench.peers.environments {peer}")
    given = [str(stack.certificate), stack.token, deployed("simple")]
    command = [str(python), str(_FLOWS / f"{peer}_flow.py"), stack.address, *given]
    done = await asyncio.to_thread(lambda: subprocess.run(command, capture_output=True, text=True, timeout=90))
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


EXPECTED = {
    "kserve": {
        "live": True,
        "ready": True,
        "model ready": True,
        "raw": RESULT,
        "typed": RESULT,
        "no token": "UNAUTHENTICATED",
        "no model": "NOT_FOUND",
    },
    "mlserver": {
        "live": True,
        "ready": True,
        "model ready": True,
        "metadata": ["INPUT0", "INPUT1"],
        "raw": RESULT,
        "typed": RESULT,
        "index": "PERMISSION_DENIED",
        "repository": "UNIMPLEMENTED",
        "no token": "UNAUTHENTICATED",
    },
}


@pytest.mark.parametrize("peer", EXPECTED)
async def test_a_client_of_another_maker(stack: Stack, peer: str) -> None:
    assert await seen(stack, peer) == EXPECTED[peer]
