"""Which forms of a model there are, what their configurations say, and which one a node takes."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from google.protobuf import text_format
from safetensors.numpy import save
from tritonclient.grpc import model_config_pb2

from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.models import Signature, Tensor
from lepton.repository import CONFIG, Manifest, Offer, Requirements, Variant
from services.inference.compress.engines import EngineKey, Shape, facts
from services.inference.compress.variants import EngineKind, Precision
from services.inference.triton_repository import ensemble
from services.inference.triton_repository.engines import BuiltEngine
from services.inference.triton_repository.options import Engine, ServingOptions
from services.inference.triton_repository.rendering import Rendered
from services.inference.triton_repository.variants import variants
from services.inference.triton_repository.warmup import Warmup
from tests.harness.serving import SIGNATURE, samples

ONNX = f"sha256:{'a' * 64}"
FILE = f"sha256:{'b' * 64}"
H100 = "NVIDIA H100 80GB HBM3 sm90"
PLAIN = Offer(backends={"python"}, packages={"onnxruntime": "1.31.1"}, device="cpu-x86-64-*-1a2b3c4d")
FULL = Offer(
    backends={"python", "onnxruntime", "tensorrt"},
    packages={"onnxruntime": "1.31.1", "torch": "2.13.0"},
    tensorrt="10.13.3",
    device="nvidia-h100-80gb-hbm3-sm*",
)


def shape(most: int = 64, usual: int = 8, least: int = 1) -> Shape:
    rest = (1, 8, 8)
    return Shape(input="x", least=(least, *rest), usual=(usual, *rest), most=(most, *rest))


def engine(
    kind: EngineKind, device: str = H100, version: str = "10.13.3", profiles: Sequence[Sequence[Shape]] = ()
) -> BuiltEngine | None:
    used = profiles or ((shape(),),)
    key = EngineKey.of(kind, version=version, device=device, precision=Precision.FP16, model=ONNX, shapes=used[0])
    return BuiltEngine.of(key, FILE, SIGNATURE, facts(used) if profiles else b"")


def plan(**options: object) -> BuiltEngine:
    made = engine(EngineKind.TENSORRT, **options)  # type: ignore[arg-type]
    assert made is not None
    return made


def inductor(device: str = H100, version: str = "torch-2.13.0+cu130") -> BuiltEngine:
    made = engine(EngineKind.AOT_INDUCTOR, device, version)
    assert made is not None
    return made


def config_of(rendered: Rendered) -> model_config_pb2.ModelConfig:
    content = rendered.files[CONFIG]
    assert isinstance(content, bytes)
    return text_format.Parse(content.decode(), model_config_pb2.ModelConfig())


def forms(options: ServingOptions | None = None, *engines: BuiltEngine) -> list[Rendered]:
    x, _ = samples(4)
    warmup = Warmup.of(save({"x": x}), SIGNATURE)
    return variants("demo.digits", {1: ONNX}, SIGNATURE, options or ServingOptions(), engines=engines, warmup=warmup)


def manifest(rendered: Sequence[Rendered]) -> Manifest:
    return Manifest(
        variants=tuple(
            Variant(engine=each.engine, key=each.key, requires=each.requires, files=dict.fromkeys(each.files, FILE))
            for each in rendered
        )
    )


def test_the_best_engine_comes_first_and_what_every_triton_runs_last() -> None:
    made = forms(None, inductor(), plan())
    assert [each.engine for each in made] == ["tensorrt", "aot_inductor", "onnxruntime", "onnxruntime"]
    assert [each.requires.backend for each in made] == ["tensorrt", "python", "onnxruntime", "python"]


def test_a_plan_gets_its_profiles_its_batches_and_the_gpu() -> None:
    made = forms(ServingOptions(instances=2), plan(profiles=[[shape(4, 4)], [shape(16)]]))[0]
    config = config_of(made)
    assert (config.platform, config.backend, config.max_batch_size) == ("tensorrt_plan", "tensorrt", 16)
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert (group.count, list(group.profile)) == (2, ["0", "1"])
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8], "what the profiles are tuned for"
    assert config.optimization.cuda.graphs
    assert sorted(made.files) == ["1/model.plan", CONFIG, "warmup/x"]
    assert made.files["1/model.plan"] == FILE


def test_a_compiled_package_runs_in_python_on_the_device_that_it_was_compiled_for() -> None:
    made = forms(None, inductor())[0]
    config = config_of(made)
    assert config.parameters["device"].string_value == "cuda"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert made.requires.packages == {"torch": "2.13.0"}
    on_cpu = config_of(forms(None, inductor("cpu-x86-64-AVX2-1a2b3c4d"))[0])
    assert on_cpu.parameters["device"].string_value == "cpu"
    assert not on_cpu.instance_group


def test_the_native_backend_gets_threads_and_whatever_device_there_is() -> None:
    config = config_of(forms(ServingOptions(threads=3, instances=2))[0])
    assert (config.backend, config.parameters["intra_op_thread_count"].string_value) == ("onnxruntime", "3")
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO


@pytest.mark.parametrize(
    ("offer", "expected"),
    [
        (FULL, ("tensorrt", "tensorrt")),
        (replace(FULL, tensorrt="10.12.0"), ("aot_inductor", "python")),
        (replace(FULL, device="nvidia-a100-sxm4-80gb-sm*"), ("onnxruntime", "onnxruntime")),
        (replace(FULL, tensorrt="", packages={"torch": "2.14.0"}), ("onnxruntime", "onnxruntime")),
        (PLAIN, ("onnxruntime", "python")),
    ],
)
def test_a_node_takes_the_best_that_it_can_run(offer: Offer, expected: tuple[str, str]) -> None:
    chosen = manifest(forms(None, plan(), inductor())).choose(offer)
    assert (chosen.engine, chosen.requires.backend) == expected


def test_an_engine_that_is_required_has_no_fallback_and_the_node_says_why() -> None:
    required = ServingOptions(engine=Engine.TENSORRT, engine_required=True)
    made = forms(required, plan(), inductor())
    assert [each.engine for each in made] == ["tensorrt"]
    with pytest.raises(FailedPrecondition, match="built by TensorRT 10.13.3, the node has 10.1.0"):
        manifest(made).choose(replace(FULL, tensorrt="10.1.0"))
    with pytest.raises(InvalidArgument, match="holds no tensorrt engine"):
        forms(required, inductor())


def test_engines_that_cannot_serve_single_rows_are_left_out() -> None:
    assert engine(EngineKind.TENSORRT, profiles=[[shape(8, 8, 4)]]) is None
    other = replace(shape(), input="other")
    assert engine(EngineKind.TENSORRT, profiles=[[other]]) is None


def test_an_engine_for_unknown_shapes_is_left_out() -> None:
    key = EngineKey.of(
        EngineKind.TENSORRT, version="1", device=H100, precision=Precision.FP16, model=ONNX, shapes=[shape(32)]
    )
    assert BuiltEngine.of(key, FILE, SIGNATURE) is None
    found = BuiltEngine.of(key, FILE, SIGNATURE, facts([[shape(32)]]))
    assert found is not None
    assert found.max_batch == 32


@pytest.mark.parametrize("data", [b"", b"[]", b'{"profiles": 1}', b'{"profiles": []}', b'{"profiles": [[]]}', b"\xff"])
def test_malformed_facts_are_refused(data: bytes) -> None:
    key = plan().key
    if not data:
        return
    with pytest.raises(InvalidArgument):
        BuiltEngine.of(key, FILE, SIGNATURE, data)


def test_a_manifest_survives_the_store_and_the_older_form_is_read() -> None:
    made = manifest(forms(None, plan()))
    assert Manifest.parse(made.render()) == made
    plain = Manifest.parse(json.dumps({CONFIG: FILE, "1/model.py": FILE}).encode())
    assert plain.choose(PLAIN).files == {CONFIG: FILE, "1/model.py": FILE}


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"format": "lepton.repository/9", "variants": []}',
        b'{"format": "lepton.repository/1", "variants": []}',
        b'{"config.pbtxt": "sha256:short"}',
        b'{"1/model.py": "sha256:' + b"a" * 64 + b'"}',
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        Manifest.parse(data)


def test_what_a_node_lacks_is_said_in_words() -> None:
    assert Requirements(backend="tensorrt").missing(PLAIN) == "Triton has no tensorrt backend there"
    assert Requirements(packages={"torch": ""}).missing(PLAIN) == "its Python environment has no torch"
    assert Requirements(packages={"onnxruntime": "1.3"}).missing(PLAIN), "1.31 is not 1.3"
    assert not Requirements(packages={"onnxruntime": "1.31"}).missing(PLAIN)


HIDDEN = Tensor(name="hidden", datatype="FP32", shape=(-1, 4))
BACK = Signature(inputs=(HIDDEN,), outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 10)),))
FRONT = Signature(inputs=SIGNATURE.inputs, outputs=(HIDDEN,))
WHOLE = Signature(inputs=SIGNATURE.inputs, outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 10)),))


def steps(**changed: object) -> list[ensemble.Step]:
    first = ensemble.Step(model="demo.digits.a", signature=FRONT, inputs={"x": "x"}, outputs={"hidden": "between"})
    second = ensemble.Step(model="demo.digits.b", signature=BACK, inputs={"hidden": "between"}, outputs={"y": "logits"})
    return [first, replace(second, **changed)]  # type: ignore[arg-type]


def test_an_ensemble_names_its_steps_and_never_batches_itself() -> None:
    config = config_of(ensemble.render("demo.digits", steps(), WHOLE, ServingOptions()))
    assert config.platform == "ensemble"
    assert [step.model_name for step in config.ensemble_scheduling.step] == ["demo.digits.a", "demo.digits.b"]
    assert not config.HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"inputs": {"hidden": "nowhere"}}, "no input and no output of an earlier step"),
        ({"inputs": {"hidden": "x"}}, "x is \\[-1, 1, 8, 8\\], hidden is"),
        ({"inputs": {}}, "must map exactly"),
        ({"outputs": {"z": "logits"}}, "has no output z"),
        ({"outputs": {"y": "between"}}, "written twice"),
        ({"outputs": {"y": "other"}}, "no step writes the output logits"),
        ({"signature": replace(BACK, inputs=(replace(HIDDEN, datatype="INT64"),))}, "hidden is FP32, hidden is INT64"),
    ],
)
def test_an_ensemble_that_cannot_run_is_refused(changed: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        ensemble.render("demo.digits", steps(**changed), WHOLE, ServingOptions())
