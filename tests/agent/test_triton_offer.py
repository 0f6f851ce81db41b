"""What a node says its Triton can run, and what it therefore takes of a model's forms."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from lepton.artifacts import ArtifactStore
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.repository import CONFIG, Manifest, Offer, Requirements, Variant
from lepton.scheduler.v1.program_pb2 import ServedModel
from services.agent.triton_models import fetch
from services.agent.triton_offer import device_classes, labels, offer
from services.agent.triton_tools import TritonTools
from services.inference.compress.engines import EngineKey
from services.inference.compress.variants import EngineKind, Precision
from tests.harness.serving import served_model, triton_tools

H100, A100 = "H100 80GB HBM3", "A100-SXM4-80GB"


def full_triton(root: Path) -> TritonTools:
    """The files by which a full Triton is known."""
    for name in ("python", "tensorrt", "onnxruntime"):
        backend = root / "backends" / name
        backend.mkdir(parents=True)
        (backend / f"libtriton_{name}.so").touch()
    (root / "backends" / "unfinished").mkdir()
    (root / "lib").mkdir()
    (root / "lib" / "libnvinfer.so.10.13.3").touch()
    (root / "lib" / "libnvinfer.so.10").touch()
    packages = root / "env" / "lib" / "python3.11" / "site-packages"
    for package in ("torch-2.13.0+cu130", "onnxruntime_gpu-1.31.1", "numpy-1.26.4"):
        (packages / f"{package}.dist-info").mkdir(parents=True)
    (root / "env" / "bin").mkdir()
    return TritonTools(
        server=root / "bin", backends=root / "backends", libs=root / "lib", python_path=root / "env" / "bin"
    )


def test_a_full_triton_offers_what_lies_there(tmp_path: Path) -> None:
    found = offer(full_triton(tmp_path))
    assert found.backends == {"python", "tensorrt", "onnxruntime"}
    assert found.tensorrt == "10.13.3"
    assert found.packages == {"torch": "2.13.0", "onnxruntime-gpu": "1.31.1", "numpy": "1.26.4"}
    assert labels(found) == {
        "triton.lepton.dev/backend.python": "yes",
        "triton.lepton.dev/backend.tensorrt": "yes",
        "triton.lepton.dev/backend.onnxruntime": "yes",
        "triton.lepton.dev/tensorrt": "10.13.3",
        "triton.lepton.dev/torch": "2.13.0",
    }


@pytest.mark.integration
def test_the_triton_of_make_setup_has_python_and_onnx_runtime() -> None:
    found = offer(triton_tools())
    assert found.backends == {"python"}
    assert "onnxruntime" in found.packages
    assert not found.tensorrt


def key(device: str) -> str:
    made = EngineKey.of(
        EngineKind.TENSORRT, version="10.13.3", device=device, precision=Precision.FP16, model="sha256:a", shapes=()
    )
    return made.device


@pytest.mark.parametrize(
    ("built_for", "models", "fits"),
    [
        (f"NVIDIA {H100} sm90", {0: H100}, True),
        (f"NVIDIA {A100} sm80", {0: H100}, False),
        (f"NVIDIA {H100} sm90", {0: H100, 1: A100}, False),
        (f"NVIDIA {H100} sm90", {}, False),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition sm120", {0: "RTX PRO 6000 Blackwell Server Edition"}, True),
    ],
)
def test_an_engine_fits_the_devices_that_it_was_built_for(built_for: str, models: dict[int, str], fits: bool) -> None:
    offered = Offer(backends=(), device=device_classes(models, models))
    lack = Requirements(device=key(built_for)).missing(offered)
    assert (lack == "") is fits


def test_an_engine_for_processors_fits_the_same_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    exact = hashlib.sha256(flags.encode()).hexdigest()[:8]
    offered = Offer(backends=(), device=device_classes((), {}))
    assert not Requirements(device=key(f"cpu-x86-64-AVX512-{exact}")).missing(offered)
    assert Requirements(device=key("cpu-x86-64-AVX512-00000000")).missing(offered)


def stored(folder: Path, variants: list[tuple[str, Requirements]]) -> tuple[ArtifactStore, ServedModel]:
    store = ArtifactStore(f"file://{folder}")
    model = served_model("demo.digits")
    files = {
        path: store.put_bytes("acme", content) for path, content in model.files.items() if isinstance(content, bytes)
    }
    made = Manifest(variants=tuple(Variant(engine=name, requires=needs, files=files) for name, needs in variants))
    golden = store.put_bytes("acme", save({**model.golden.inputs, **model.golden.outputs}))
    return store, ServedModel(name="demo.digits", repository=store.put_bytes("acme", made.render()), golden=golden)


def test_a_node_fetches_the_first_form_that_it_can_run(tmp_path: Path) -> None:
    forms = [("tensorrt", Requirements(backend="tensorrt")), ("onnxruntime", Requirements(backend="python"))]
    store, model = stored(tmp_path / "store", forms)
    found = fetch(store, "acme", model, tmp_path / "files", Offer(backends={"python"}))
    assert found.engine == "onnxruntime"
    assert sorted(found.files) == ["1/model.onnx", "1/model.py", CONFIG]
    with pytest.raises(FailedPrecondition, match="Triton has no python backend there"):
        fetch(store, "acme", model, tmp_path / "others", Offer(backends=()))


def test_an_engine_is_proved_by_its_own_golden_answers(tmp_path: Path) -> None:
    store, model = stored(tmp_path / "store", [("onnxruntime", Requirements(backend="python"))])
    form = Manifest.parse(store.read("acme", model.repository)).variants[0]
    plain = fetch(store, "acme", model, tmp_path / "plain", Offer(backends={"python"}))
    own = {**plain.golden.inputs, **{name: array + 1 for name, array in plain.golden.outputs.items()}}
    engine = replace(form, engine="tensorrt", golden=store.put_bytes("acme", save(own)))
    model.repository = store.put_bytes("acme", Manifest(variants=(engine,)).render())
    found = fetch(store, "acme", model, tmp_path / "files", Offer(backends={"python"}))
    np.testing.assert_array_equal(found.golden.outputs["logits"], plain.golden.outputs["logits"] + 1)


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}")
    digest = store.put_bytes("acme", b'{"config.pbtxt": "../../etc/passwd"}')
    with pytest.raises(InvalidArgument):
        fetch(
            store,
            "acme",
            ServedModel(name="x", repository=digest, golden=digest),
            tmp_path / "files",
            Offer(backends=()),
        )
