"""Packages made to harm: refused with a typed error, nothing registered, nothing unpickled, no file outside opened."""

import contextlib
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from lepton.errors import AlreadyExists, InvalidArgument, LeptonError
from lepton.models import Architecture, ModelPackage, Signature, Tensor
from lepton.models.package import GOLDEN, ONNX, PT2, WEIGHTS
from lepton.names import ModelName, VersionName
from tests.inference.conftest import SIGNATURE, World, golden, version_request
from tests.sdk.test_model_formats import archive, external, functions, model, of_domain, with_dims

OPENED: list[str] = []


class Bomb:
    """Whoever unpickles it is found out."""

    def __reduce__(self) -> Any:
        return OPENED.append, ("unpickled",)


async def refused(world: World, content: dict[str, bytes], **changes: Any) -> InvalidArgument:
    stored = {
        name: await world.artifacts.put_bytes("acme", data)
        for name, data in {GOLDEN: save(golden(SIGNATURE)), **content}.items()
    }
    document = json.loads(
        ModelPackage(architecture=Architecture(), files=stored, signature=SIGNATURE, metrics={}, lineage={}).render()
    )
    document.update(changes)
    return await refused_manifest(world, json.dumps(document).encode())


async def refused_manifest(world: World, manifest: bytes) -> InvalidArgument:
    digest = await world.artifacts.put_bytes("acme", manifest)
    name = ModelName("acme", "m")
    with contextlib.suppress(AlreadyExists):
        await world.model("m")
    with pytest.raises(InvalidArgument) as caught:
        await world.registry.create_version(version_request(await world.registry.get_model(str(name)), digest))
    assert (await world.registry.get_model(str(name))).latest_version == 0
    assert not OPENED
    return caught.value


GOOD = save({"w": np.zeros(3, np.float32)})
PICKLES = {
    "pickle": pickle.dumps(Bomb()),
    "old pickle": pickle.dumps(Bomb(), 0),
    "torch's zip": archive(**{"data.pkl": pickle.dumps(Bomb())}).getvalue(),
    "gzip": b"\x1f\x8b\x08\x00rest",
}


@pytest.mark.parametrize("name", [WEIGHTS, GOLDEN, PT2, "engines/key/model.pt2", "extra/notes.txt"])
@pytest.mark.parametrize("kind", PICKLES)
async def test_a_pickle_is_refused_under_any_name(world: World, name: str, kind: str) -> None:
    error = await refused(world, {WEIGHTS: GOOD, name: PICKLES[kind]})
    allowed = {"MODEL_FILE_PICKLED"}
    if name in (WEIGHTS, GOLDEN) or (name == PT2 and kind != "torch's zip") or name.endswith("model.pt2"):
        allowed |= {"MODEL_FILE_INVALID"}
    assert error.reason in allowed


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({ONNX: external("/etc/passwd").SerializeToString()}, "lies outside"),
        ({ONNX: external("../../../etc/passwd").SerializeToString()}, "lies outside"),
        ({ONNX: of_domain("com.evil").SerializeToString()}, "whose code is not here"),
        ({ONNX: with_dims(1 << 30, 1 << 30).SerializeToString()}, "elements"),
        ({ONNX: functions({"f0": ["f0"]}).SerializeToString()}, "calls itself"),
        (
            {ONNX: functions({f"f{n}": [f"f{n + 1}"] * 10 for n in range(7)} | {"f7": ["Relu"]}).SerializeToString()},
            "written out",
        ),
        ({ONNX: b"\x08"}, "cut off"),
        ({WEIGHTS: b"not safetensors at all"}, "header"),
        ({PT2: archive().getvalue()}, "pickle"),
    ],
)
async def test_a_poisoned_model_is_refused(world: World, files: dict[str, bytes], problem: str) -> None:
    assert problem in str(await refused(world, files))


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "..",
        ".",
        "a//b",
        "a\\..\\b",
        "",
        "-rf",
        "a\0b",
        "a" * 500,
        "a/" * 9 + "b",
        "~/x",
        "C:x",
    ],
)
async def test_names_that_leave_the_package_are_refused(world: World, name: str) -> None:
    error = await refused(world, {WEIGHTS: GOOD}, files={name: "sha256:" + "0" * 64})
    assert error.reason == "PACKAGE_INVALID"


async def test_golden_samples_must_be_of_the_signature(world: World) -> None:
    for wrong in ({"x": np.zeros(3, np.float32)}, {**golden(SIGNATURE), "logits": np.zeros((2, 3), np.float32)}):
        assert (await refused(world, {WEIGHTS: GOOD, GOLDEN: save(wrong)})).reason == "PACKAGE_INVALID"
    assert "golden" in str(
        await refused(world, {WEIGHTS: GOOD}, files={WEIGHTS: await world.artifacts.put_bytes("acme", GOOD)})
    )


async def test_a_package_with_nothing_to_run_is_refused(world: World) -> None:
    assert "nothing that can be run" in str(await refused(world, {}))
    assert "architecture" in str(await refused(world, {WEIGHTS: GOOD}, architecture=None))


async def test_an_onnx_package_needs_no_recipe(world: World) -> None:
    """The negative control of all that is refused here."""
    made = await world.model("good")
    signature = Signature(
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 4)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 4)),),
    )
    files = {
        ONNX: await world.artifacts.put_bytes("acme", model().SerializeToString()),
        GOLDEN: await world.artifacts.put_bytes("acme", save(golden(signature))),
    }
    package = ModelPackage(files=files, signature=signature, metrics={}, lineage={"source": "elsewhere"})
    version = await world.registry.register(ModelName.parse(made.name), package, request_id="")
    assert (version.forms, version.lineage.source) == (["model.onnx"], "elsewhere")
    assert (await world.registry.package(version)) == package


async def test_ten_thousand_bogus_names_are_typed_errors(world: World) -> None:
    await world.version(await world.model())
    hostile = ("../x", "a" * 5000, "", "..", "a/b", "a\0b", "A", "é", "%2e%2e", "-", "a" * 64, "x\n", "1" * 40)
    for number in range(10_000):
        text = f"projects/acme/models/{hostile[number % len(hostile)]}{number}/versions/{number}"
        try:
            await world.registry.get_version(text)
        except LeptonError as error:
            assert error.reason in ("INVALID_NAME", "VERSION_NOT_FOUND"), (text, error)  # noqa: PT017
        else:
            raise AssertionError(text)
    assert (await world.registry.get_version("projects/acme/models/digits/versions/1")).name.endswith("/1")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    for given_ in (text, f"projects/acme/models/{text}/versions/1", f"projects/acme/models/m/versions/{text}"):
        try:
            assert str(VersionName.parse(given_)) == given_
        except LeptonError as error:
            assert error.reason == "INVALID_NAME"  # noqa: PT017


_FIELDS = st.sampled_from(
    ["format", "files", "signature", "inputs", "outputs", "metrics", "lineage", "architecture", "name", "shape"]
)
_DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_FIELDS, inner, max_size=5),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(_DOCUMENTS)
def test_any_document_is_a_package_or_refused(document: Any) -> None:
    for data in (
        document,
        {"format": "lepton.model/1", "files": {}, "metrics": {}, "lineage": {}, "signature": document},
    ):
        try:
            ModelPackage.parse(json.dumps(data).encode())
        except InvalidArgument as error:
            assert error.reason in ("MODEL_PACKAGE_INVALID", "INVALID_FIELD")  # noqa: PT017
