"""From a revision and its package to what nodes are told: engines, versions beside, and nothing that a user wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from safetensors.numpy import save
from tritonclient.grpc import model_config_pb2

from chassis.artifacts import ArtifactStore
from lepton.errors import InvalidArgument
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.inference.v1.serving_options_pb2 import ServingOptions, VersionPolicy
from lepton.models import ModelPackage, Signature
from lepton.models.package import GOLDEN, ONNX
from lepton.repository import CONFIG, Manifest
from services.inference import repository
from services.inference.compress.engines import EngineKey, Shape, facts
from services.inference.compress.variants import EngineKind, Precision
from tests.harness.serving import SIGNATURE, linear_model, samples

SHAPE = Shape(input="x", least=(1, 1, 8, 8), usual=(8, 1, 8, 8), most=(16, 1, 8, 8))
KEY = EngineKey.of(
    EngineKind.TENSORRT,
    version="10.13.3",
    device="NVIDIA H100 sm90",
    precision=Precision.FP16,
    model="m",
    shapes=[SHAPE],
)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}")


async def package(
    store: ArtifactStore, files: Mapping[str, bytes] | None = None, signature: Signature = SIGNATURE
) -> ModelPackage:
    x, logits = samples(4)
    content = {ONNX: linear_model(), GOLDEN: save({"x": x, "logits": logits}), **(files or {})}
    digests = {name: await store.put_bytes("acme", data) for name, data in content.items()}
    return ModelPackage(files=digests, signature=signature, metrics={}, lineage={})


def revision(number: int = 3, **serving: Any) -> DeploymentRevision:
    return DeploymentRevision(
        name="projects/acme/deployments/digits/revisions/1",
        model_version=f"projects/acme/models/digits/versions/{number}",
        serving=ServingOptions(**serving),
    )


async def built(store: ArtifactStore, given: DeploymentRevision, made: ModelPackage, *others: Any) -> Manifest:
    (served,) = await repository.build(given, made, store, *others)
    assert (served.name, served.golden) == ("acme.digits", made.files[GOLDEN])
    return Manifest.parse(await store.read("acme", served.repository))


async def config(store: ArtifactStore, digest: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse((await store.read("acme", digest)).decode(), model_config_pb2.ModelConfig())


async def test_the_files_that_a_node_gets_are_ours_and_the_models_own(store: ArtifactStore) -> None:
    poisoned = {
        "config.pbtxt": b'backend: "python" parameters {key: "EXECUTION_ENV_PATH" value {string_value: "/tmp/evil"}}',
        "1/model.py": b"import os; os.system('id')",
        "model.py": b"evil",
        "labels.txt": b"harmless",
    }
    plain, evil = await package(store), await package(store, poisoned)
    made = await built(store, revision(), evil)
    assert made == await built(store, revision(), plain), "whatever else a package holds, the repository is the same"
    digests = {digest for each in made.variants for digest in each.files.values()}
    assert not digests & {evil.files[name] for name in poisoned}
    found = await config(store, made.variants[-1].files[CONFIG])
    assert (found.name, found.backend, list(found.parameters)) == ("acme.digits", "python", ["threads"])


async def test_an_engine_of_the_package_comes_first_with_its_own_batches(store: ArtifactStore) -> None:
    folder = f"engines/{KEY}"
    engine = {f"{folder}/model.plan": b"plan", f"{folder}/engine.json": facts([[SHAPE]], model="m")}
    engine[f"{folder}/golden.safetensors"] = b"its own answers"
    given = await package(store, engine)
    made = await built(store, revision(), given)
    assert [each.golden for each in made.variants] == [given.files[f"{folder}/golden.safetensors"], "", ""]
    assert [each.engine for each in made.variants] == ["tensorrt", "onnxruntime", "onnxruntime"]
    assert made.variants[0].key == str(KEY)
    assert (await config(store, made.variants[0].files[CONFIG])).max_batch_size == 16
    assert (await config(store, made.variants[1].files[CONFIG])).max_batch_size == 32


@pytest.mark.parametrize("told", [b"", b"{", b'{"profiles": [[]]}', bytes(65 << 10)])
async def test_an_engine_with_odd_facts_is_left_out_and_the_model_served(store: ArtifactStore, told: bytes) -> None:
    folder = f"engines/{KEY}"
    engine = {f"{folder}/model.plan": b"plan", **({f"{folder}/engine.json": told} if told else {})}
    made = await built(store, revision(), await package(store, engine))
    assert [each.engine for each in made.variants] == ["onnxruntime", "onnxruntime"]


async def test_versions_beside_lie_under_their_own_numbers(store: ArtifactStore) -> None:
    given = revision(number=3, version_policy=VersionPolicy(latest=2))
    assert repository.versions_beside(given) == (2,)
    made = await built(store, given, await package(store), {2: await package(store)})
    assert list((await config(store, made.variants[0].files[CONFIG])).version_policy.specific.versions) == [2, 3]
    assert {"2/model.onnx", "3/model.onnx"} <= made.variants[0].files.keys()


async def test_a_version_beside_must_take_and_give_the_same(store: ArtifactStore) -> None:
    given = revision(number=3, version_policy=VersionPolicy(latest=2))
    other = await package(store, signature=Signature(inputs=SIGNATURE.inputs, outputs=SIGNATURE.inputs))
    with pytest.raises(InvalidArgument, match="another signature"):
        await repository.build(given, await package(store), store, {2: other})
    without = await package(store)
    only_weights = ModelPackage(files={GOLDEN: without.files[GOLDEN]}, signature=SIGNATURE, metrics={}, lineage={})
    with pytest.raises(InvalidArgument, match="cannot be served beside"):
        await repository.build(given, await package(store), store, {2: only_weights})


async def test_a_warm_up_is_of_the_golden_samples_and_malformed_ones_are_left_to_the_node(store: ArtifactStore) -> None:
    made = await built(store, revision(), await package(store))
    x, _ = samples(4)
    assert await store.read("acme", made.variants[0].files["warmup/x"]) == x[:1].tobytes()
    odd = await built(store, revision(), await package(store, {GOLDEN: b"no safetensors"}))
    assert "warmup/x" not in odd.variants[0].files
