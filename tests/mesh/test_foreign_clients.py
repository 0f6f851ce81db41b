"""Clients that are not ours through the gateway of a running stack: NVIDIA's examples, KServe, MLServer, perf_analyzer.

The model is an ONNX file behind a deployment, as any user's; what else the examples need (texts, sequences, decoupled
answers) is asked of Triton's Python backend in `tests/inference/clients`, where it is said how to get the clients.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto, helper
from safetensors.numpy import save

from lepton.client import AsyncClient
from lepton.models import ModelPackage, Signature, Tensor
from lepton.models.package import GOLDEN, ONNX
from tests.inference.clients import test_foreign_clients as peers
from tests.inference.clients import test_nvidia_examples as nvidia
from tests.inference.clients import test_perf_analyzer as analyzer
from tests.inference.clients.example_models import PROJECT
from tests.mesh.conftest import Stack

examples, perf_analyzer = nvidia.examples, analyzer.perf_analyzer
pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]
NAMES = ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway of the stack, as its profile tells."""

    address: str
    certificate: Path
    token: str


def simple() -> dict[str, bytes]:
    """The files of NVIDIA's `simple`, made anew: the sum and the difference of two tensors of 16 numbers."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", 16]) for name in NAMES]
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    graph = helper.make_graph(nodes, "simple", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    one = np.arange(64, dtype=np.int32).reshape(4, 16)
    other = np.ones_like(one)
    golden = {"INPUT0": one, "INPUT1": other, "OUTPUT0": one + other, "OUTPUT1": one - other}
    return {ONNX: model.SerializeToString(), GOLDEN: save(golden)}


def manifest(files: dict[str, bytes]) -> bytes:
    """The package that lists them."""
    given, answered = (
        tuple(Tensor(name=name, datatype="INT32", shape=(-1, 16)) for name in names) for names in (NAMES[:2], NAMES[2:])
    )
    digests = {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in files.items()}
    return ModelPackage(
        files=digests, signature=Signature(inputs=given, outputs=answered), metrics={}, lineage={}
    ).render()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(stack: Stack) -> AsyncIterator[Gateway]:
    """With the model deployed under the name that the examples are told."""
    password = stack.home.admin_password.read_text().strip()
    async with AsyncClient.open(stack.profile, project=PROJECT, user="admin", password=password) as client:
        await client.projects.create(PROJECT)
        files = simple()
        for content in (*files.values(), manifest(files)):
            uploaded = await client.artifacts.upload(content)
        version = await client.models.register("simple", uploaded.digest)
        await client.deployments.create("simple", version.name, replicas=1)
        await client.deployments.wait("simple", timeout_s=120)
        yield Gateway(stack.profile.gateway, stack.profile.trust_bundle, await client.fresh_access_token())


@pytest.mark.parametrize("client", nvidia.OF_SIMPLE, ids=" ".join)
async def test_an_example_of_nvidia_passes(gateway: Gateway, examples: Path, client: tuple[str, ...]) -> None:
    await nvidia.passes(gateway, examples, *client)


@pytest.mark.parametrize("client", nvidia.REFUSED, ids=" ".join)
async def test_an_example_that_manages_the_server_is_refused(
    gateway: Gateway, examples: Path, client: tuple[str, ...]
) -> None:
    await nvidia.is_refused(gateway, examples, *client)


@pytest.mark.parametrize("peer", peers.EXPECTED)
async def test_a_client_of_another_maker(gateway: Gateway, peer: str) -> None:
    assert await peers.seen(gateway, peer) == peers.EXPECTED[peer]


@pytest.mark.parametrize("how", [("--concurrency-range", "1:4:3"), ("--streaming", "--concurrency-range", "2")])
async def test_perf_analyzer_measures_it(
    gateway: Gateway, perf_analyzer: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    rows = await analyzer.measured(gateway, perf_analyzer, tmp_path / "report.csv", "-m", f"{PROJECT}.simple", *how)
    assert rows
    assert all(float(row["Inferences/Second"]) > 0 for row in rows), rows
