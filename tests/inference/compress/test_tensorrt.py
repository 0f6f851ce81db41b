"""TensorRT as far as a machine without its libraries goes: refusals, what the builder is asked for, and its types."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lepton.errors import FailedPrecondition
from services.inference.compress import onnx_files, tensorrt_engine
from services.inference.compress.engines import EngineKey, Shape
from services.inference.compress.samples import Part
from services.inference.compress.variants import EngineKind, Precision
from tests.harness.serving import linear_model

ROOT = Path(__file__).parents[3]
SHAPES = (Shape(input="x", least=(1, 1, 8, 8), usual=(8, 1, 8, 8), most=(64, 1, 8, 8)),)
PART = Part(inputs={"x": np.random.default_rng(0).normal(size=(32, 1, 8, 8)).astype(np.float32)})


class Recorded(ModuleType):
    """A module of TensorRT's name that writes down what it is asked for."""

    def __init__(self, *, parses: bool = True, builds: bool = True, profile: int = 0) -> None:
        super().__init__("tensorrt")
        self.calls: list[tuple[str, Any]] = []
        self.__version__ = "10.13.0.35"
        note = self._note
        kept = SimpleNamespace(serialize=lambda: b"timings")
        builds_to = b"plan" if builds else None
        config = SimpleNamespace(
            set_memory_pool_limit=note("memory"),
            add_optimization_profile=note("profile", profile),
            create_timing_cache=note("cache", kept),
            set_timing_cache=lambda cache, ignore_mismatch: note("use cache")(ignore_mismatch),
            get_timing_cache=lambda: kept,
        )
        self.Logger: Any = type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None})
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.Dims = tuple
        self.Builder = lambda logger: SimpleNamespace(
            create_network=note("network", "network"),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=note("shape")),
            build_serialized_network=note("build", builds_to),
        )
        self.OnnxParser = lambda network, logger: SimpleNamespace(
            parse=note("parse", parses), num_errors=1, get_error=lambda at: "node 3: no such operator"
        )

    def _note(self, name: str, answer: Any = None) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            return answer

        return call


def test_without_the_library_every_call_refuses_and_says_what_serves_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for call in (tensorrt_engine.version, lambda: tensorrt_engine.build(linear_model(), SHAPES)):
        with pytest.raises(FailedPrecondition, match="ENGINE_UNAVAILABLE") as refused:
            call()
        assert "ONNX Runtime serves the model" in refused.value.message
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))  # an empty package of that name
    with pytest.raises(FailedPrecondition, match="ENGINE_UNAVAILABLE"):
        tensorrt_engine.version()


def test_the_builder_gets_a_typed_network_a_profile_and_the_timings_of_the_last_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", library := Recorded())
    built = tensorrt_engine.build(linear_model(), SHAPES, timing_cache=b"before", workspace_bytes=1 << 20)
    assert (built.plan, built.timing_cache) == (b"plan", b"timings")
    calls = dict(library.calls)
    assert [name for name, _ in library.calls] == [
        "network", "parse", "memory", "shape", "profile", "cache", "use cache", "build",
    ]  # fmt: skip
    assert calls["network"] == (1 << 1,)
    assert calls["shape"] == ("x", (1, 1, 8, 8), (8, 1, 8, 8), (64, 1, 8, 8))
    assert (calls["cache"], calls["use cache"], calls["memory"]) == ((b"before",), (False,), ("workspace", 1 << 20))


@pytest.mark.parametrize(
    ("fault", "why"),
    [({"parses": False}, "node 3: no such operator"), ({"builds": False}, "no engine"), ({"profile": -1}, "profile")],
)
def test_what_tensorrt_cannot_build_is_an_error_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any], why: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", Recorded(**fault))
    with pytest.raises(FailedPrecondition, match="ENGINE_BUILD_FAILED") as failed:
        tensorrt_engine.build(linear_model(), SHAPES)
    assert why in str(failed.value)


def test_the_key_holds_the_version_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", Recorded())
    key = tensorrt_engine.key("sha256:" + "a" * 64, SHAPES, Precision.FP16, "NVIDIA H200 sm90")
    assert (key.kind, key.version, key.device) == (EngineKind.TENSORRT, "10.13.0.35", "nvidia-h200-sm90")
    assert EngineKey.parse(str(key)) == key


def test_the_file_says_the_precision_of_a_typed_network() -> None:
    import onnx

    model = linear_model()
    assert tensorrt_engine.typed(model, Precision.FP32, PART) == model
    half = onnx.load_from_string(tensorrt_engine.typed(model, Precision.FP16, PART))
    assert {tensor.data_type for tensor in half.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert {each.type.tensor_type.elem_type for each in half.graph.input} == {onnx.TensorProto.FLOAT}
    eight = tensorrt_engine.typed(model, Precision.INT8_STATIC, PART)
    kinds = {node.op_type for node in onnx.load_from_string(eight).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    zeros = [each for each in onnx.load_from_string(eight).graph.initializer if "zero_point" in each.name]
    assert zeros
    assert all(not onnx.numpy_helper.to_array(each).any() for each in zeros)  # symmetric, as TensorRT reads it
    given = onnx_files.runner(eight, ["logits"])(PART.inputs)[0]
    expected = onnx_files.runner(model, ["logits"])(PART.inputs)[0]
    assert np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_calls_have_the_types_of_the_real_bindings(tmp_path: Path) -> None:
    wanted = "tensorrt-stubs==10.13.0.35.1"  # made of the bindings of that version
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), wanted]
    if subprocess.run(fetch, timeout=120, check=False).returncode:
        pytest.skip("the type stubs of TensorRT cannot be fetched here")
    stubs = tmp_path / "stubs"
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(stubs)
    _repair(stubs)
    module = "services/inference/compress/tensorrt_engine.py"
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(tmp_path / "cache")]
    environment = {"MYPYPATH": f"{stubs}:{ROOT / 'sdk'}:{ROOT}", "PATH": "/usr/bin:/bin"}

    def errors() -> list[str]:
        run = subprocess.run(
            [*command, module], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        return [line for line in run.stdout.splitlines() if line.startswith(module) and "error" in line]

    assert errors() == []
    bindings = stubs / "tensorrt_bindings/tensorrt.pyi"
    bindings.write_text(bindings.read_text().replace("def create_optimization_profile(", "def create_profile("))
    assert any("create_optimization_profile" in line for line in errors())  # the control: a wrong call is found


def _repair(stubs: Path) -> None:
    """The generated stubs hold a few lines that are no Python: parameters named `in`, and a default before none."""
    file = stubs / "tensorrt_bindings/tensorrt.pyi"
    text = re.sub(r"(?<=[(, ])in: ", "in_: ", file.read_text())
    text = re.sub(r"= <[^>]*>(?=[,)])", "= ...", text).replace("channel_axis: int)", "channel_axis: int = 0)")
    file.write_text(text)
    package = stubs / "tensorrt/__init__.pyi"
    kept = "\n".join(line for line in package.read_text().splitlines() if "tensorrt_libs" not in line)
    package.write_text(re.sub(r"(?m)^(from \S+ import )(\w+)$", r"\1\2 as \2", kept))  # handed on in so many words
