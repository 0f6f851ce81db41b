"""An AOTInductor package on real Triton: compiled here, served by the Python backend in an environment with torch."""

import sys
import venv
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import save

from lepton.golden import Golden
from lepton.models import ModelPackage
from lepton.repository import CONFIG
from services.agent.ports import Port
from services.agent.served_model import ServedModel, materialise
from services.agent.triton_offer import device_classes, offer
from services.agent.triton_server import TritonServer
from services.agent.triton_tools import TritonTools
from services.inference.compress.engines import EngineKey
from services.inference.compress.variants import EngineKind, Precision
from services.inference.triton_repository import aot_inductor
from services.inference.triton_repository.engines import BuiltEngine
from services.inference.triton_repository.options import ServingOptions
from services.inference.triton_repository.warmup import Warmup
from tests.harness.serving import SIGNATURE, WEIGHTS, samples, triton_tools

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]


def with_torch(tools: TritonTools, folder: Path) -> TritonTools:
    """The stub's environment and, after its own packages, what this one has: its numpy is found first."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (own,) = tools.python_path.parent.glob("lib/python3*/site-packages")
    (ours,) = Path(sys.prefix).glob("lib/python3*/site-packages")
    for each in own.iterdir():
        (site / each.name).symlink_to(each)
    for each in ours.iterdir():
        if not (site / each.name).exists() and not each.name.startswith("numpy") and each.suffix != ".pth":
            (site / each.name).symlink_to(each)
    return replace(tools, python_path=folder / "bin")


async def test_a_compiled_package_answers_as_the_module_does(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    compiler = pytest.importorskip("services.inference.compress.aot_inductor")
    tools = with_torch(triton_tools(), tmp_path / "env")
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10, bias=False))
    module[1].weight.data = torch.from_numpy(WEIGHTS.T.copy())
    x, logits = samples(16)
    package = ModelPackage(files={}, signature=SIGNATURE, metrics={}, lineage={})
    built = compiler.build(module, package, {"x": x}, Precision.FP32, "cpu")
    key = EngineKey.of(
        EngineKind.AOT_INDUCTOR,
        version=compiler.version(),
        device=compiler.device_class("cpu"),
        precision=Precision.FP32,
        model=f"sha256:{'a' * 64}",
        shapes=compiler.shapes(package),
    )
    engine = BuiltEngine.of(key, f"sha256:{'b' * 64}", SIGNATURE)
    assert engine is not None, "what is compiled without facts has the usual shapes"
    golden = save({"x": x, "logits": logits})
    options = ServingOptions(max_batch=8, instances=2)
    rendered = aot_inductor.render("demo.digits", engine, SIGNATURE, options, Warmup.of(golden, SIGNATURE))
    assert not rendered.requires.missing(offer(tools, device_classes((), {}))), "this very machine can run it"
    files = {path: built if isinstance(content, str) else content for path, content in rendered.files.items()}
    config = files[CONFIG].decode()
    model = ServedModel(name="demo.digits", files=files, golden=Golden.parse(golden, config))
    materialise(tmp_path / "repository", [model])
    port = Port()
    server = TritonServer(
        tools=tools, repository=tmp_path / "repository", log=tmp_path / "log", port=port.number, start_s=30
    )
    async with server:
        await server.load(model.name, deadline_s=90)
        verdict = await server.prove(model.name, model.golden, deadline_s=30)
    port.close()
    assert verdict.passed, verdict.detail
    assert verdict.rows == 16
