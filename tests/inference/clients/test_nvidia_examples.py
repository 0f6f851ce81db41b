"""NVIDIA's example clients, where a folder holds them (LEPTON_TRITON_EXAMPLES, or triton-examples in LEPTON_TEST_DATA).

They are `src/python/examples` of github.com/triton-inference-server/client; Lepton holds no copy. They run in the
Python of LEPTON_TRITON_CLIENT, one with `tritonclient[grpc,http]`, else in the tests' own. Not run: those for HTTP and
for images; `grpc_client.py`, which asks for an image model; the one for CUDA memory, which needs a GPU to begin with;
and `--dyna`, which needs sequence ids of text that Triton does not hand to its Python backend.
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
from tests.inference.clients.stack import Front, Stack

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
OF_SIMPLE = [
    *(("simple_grpc_infer_client.py",), ("simple_grpc_async_infer_client.py",), ("simple_grpc_aio_infer_client.py",)),
    *(
        ("simple_grpc_keepalive_client.py",),
        ("simple_grpc_custom_args_client.py",),
        ("simple_grpc_health_metadata.py",),
    ),
    ("grpc_explicit_int_content_client.py",),
]
"""Those of them that need no more than the model `simple`."""
REFUSED = [
    ("simple_grpc_shm_client.py",),
    ("simple_grpc_shm_string_client.py",),
    ("simple_grpc_model_control.py",),
    ("reuse_infer_objects_client.py", "-i", "grpc"),
]
WITHOUT_ADDRESS = {"memory_growth_test.py"}
"""They call the address that stands in them."""
MODELS = [
    *("simple", "simple_int8", "simple_string", "simple_identity", "repeat_int32", "wrong_model_name"),
    *("simple_sequence", "custom_identity_int32"),
]


@pytest.fixture(scope="module")
def examples() -> Path:
    data = os.environ.get("LEPTON_TEST_DATA", "")
    named = os.environ.get("LEPTON_TRITON_EXAMPLES") or (data and f"{data}/triton-examples")
    if not named or not Path(named, "simple_grpc_infer_client.py").is_file():
        pytest.skip(
            "set LEPTON_TRITON_EXAMPLES to src/python/examples of a clone of github.com/triton-inference-server/client"
        )
    return Path(named)


async def ran(stack: Front, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script, to its end."""
    python = os.environ.get("LEPTON_TRITON_CLIENT") or sys.executable
    surroundings = {
        **os.environ,
        "LEPTON_CA": str(stack.certificate),
        "LEPTON_TOKEN": stack.token,
        "LEPTON_MODELS": json.dumps({"localhost:8001": stack.address, **{name: deployed(name) for name in MODELS}}),
    }
    address = () if script.name in WITHOUT_ADDRESS else ("-u", stack.address)
    command = [python, launch.__file__, str(script), *address, *arguments]
    return await asyncio.to_thread(
        lambda: subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=60, cwd=script.parent)
    )


@pytest.mark.parametrize("client", PASSING, ids=" ".join)
async def test_an_example_passes(stack: Stack, examples: Path, client: tuple[str, ...]) -> None:
    await passes(stack, examples, *client)


async def passes(stack: Front, examples: Path, script: str, *arguments: str) -> None:
    """An example comes to its end, and finds everything as it should be."""
    done = await ran(stack, examples / script, *arguments)
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    assert "FAIL" not in said, said
    assert "creation failed" not in said, said


async def test_an_example_with_an_address_of_its_own_passes(stack: Stack, examples: Path) -> None:
    await passes(stack, examples, "memory_growth_test.py", "-i", "grpc", "-r", "20")


@pytest.mark.parametrize("client", REFUSED, ids=" ".join)
async def test_what_only_an_owner_of_the_server_may_do_is_refused_cleanly(
    stack: Stack, examples: Path, client: tuple[str, ...]
) -> None:
    await is_refused(stack, examples, *client)


async def is_refused(stack: Front, examples: Path, script: str, *arguments: str) -> None:
    """An example is told that it may not, and what to do."""
    done = await ran(stack, examples / script, *arguments)
    assert done.returncode != 0
    assert "StatusCode.PERMISSION_DENIED" in done.stderr, done.stderr
    assert "models are managed by deployments" in done.stderr
