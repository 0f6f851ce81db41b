"""NVIDIA's example clients, where a folder holds them (LEPTON_TRITON_EXAMPLES, or triton-examples in LEPTON_TEST_DATA).

They are `src/python/examples` of the repository of Triton's clients; Lepton holds no copy. Not run: those for HTTP
and for images, and `--dyna`, which needs sequence ids of text that Triton does not hand to its Python backend.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inference.clients import launch
from tests.inference.clients.example_models import deployed
from tests.inference.clients.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(120)]
PASSING = [
    ("simple_grpc_infer_client.py",),
    ("simple_grpc_async_infer_client.py",),
    ("simple_grpc_aio_infer_client.py",),
    ("simple_grpc_string_infer_client.py",),
    ("simple_grpc_keepalive_client.py",),
    ("simple_grpc_custom_args_client.py",),
    ("simple_grpc_health_metadata.py",),
    ("simple_grpc_sequence_stream_infer_client.py",),
    ("simple_grpc_sequence_sync_infer_client.py",),
    ("simple_grpc_aio_sequence_stream_infer_client.py",),
    ("simple_grpc_custom_repeat.py",),
    ("grpc_explicit_int_content_client.py",),
    ("grpc_explicit_int8_content_client.py",),
    ("grpc_explicit_byte_content_client.py",),
]
REFUSED = ["simple_grpc_shm_client.py", "simple_grpc_shm_string_client.py", "simple_grpc_model_control.py"]
MODELS = [
    *("simple", "simple_int8", "simple_string", "simple_identity", "repeat_int32", "wrong_model_name"),
    "simple_sequence",
]


@pytest.fixture(scope="module")
def examples() -> Path:
    data = os.environ.get("LEPTON_TEST_DATA", "")
    named = os.environ.get("LEPTON_TRITON_EXAMPLES") or (data and f"{data}/triton-examples")
    if not named or not Path(named, "simple_grpc_infer_client.py").is_file():
        pytest.skip("set LEPTON_TRITON_EXAMPLES to a folder with the example clients of Triton (src/python/examples)")
    return Path(named)


async def ran(stack: Stack, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script, to its end."""
    surroundings = {
        **os.environ,
        "LEPTON_CA": str(stack.certificate),
        "LEPTON_TOKEN": stack.token,
        "LEPTON_MODELS": json.dumps({name: deployed(name) for name in MODELS}),
    }
    command = [sys.executable, launch.__file__, str(script), "-u", stack.address, *arguments]
    return await asyncio.to_thread(
        lambda: subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=60, cwd=script.parent)
    )


@pytest.mark.parametrize("client", PASSING, ids=" ".join)
async def test_an_example_passes(stack: Stack, examples: Path, client: tuple[str, ...]) -> None:
    script, *arguments = client
    done = await ran(stack, examples / script, *arguments)
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    assert "FAIL" not in said, said
    assert "creation failed" not in said, said


@pytest.mark.parametrize("script", REFUSED)
async def test_what_only_an_owner_of_the_server_may_do_is_refused_cleanly(
    stack: Stack, examples: Path, script: str
) -> None:
    done = await ran(stack, examples / script)
    assert done.returncode != 0
    assert "StatusCode.PERMISSION_DENIED" in done.stderr, done.stderr
    assert "models are managed by deployments" in done.stderr
