"""`lepton models import`: from a file to a version that was run once; and everything that is refused on the way."""

import asyncio
import json
import os
import pickle
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from lepton import models
from lepton.artifacts import digest_of
from lepton.cli.root import app
from lepton.errors import InvalidArgument
from lepton.models import Architecture
from lepton.models.importing import Source, Wishes, make, proof
from tests.harness.registry import registry_lepton
from tests.sdk.test_model_formats import archive, external, model

Run = Callable[..., Coroutine[Any, Any, Any]]
ARCHITECTURE = {"name": "image_classifier", "config": {"channels": 1, "height": 8, "width": 8, "classes": 10}}


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    async with registry_lepton(tmp_path):

        async def invoke(*argv: str, stdin: str = "") -> Any:
            given = {
                "LEPTON_PROFILE": str(tmp_path / "profile.toml"),
                "LEPTON_API_KEY": "lpk_good",
                "LEPTON_HOME": None,
                "LEPTON_PROJECT": None,
                "LEPTON_TRACE": None,
            }
            return await asyncio.to_thread(CliRunner().invoke, app, ["models", *argv], input=stdin, env=given)

        yield invoke


def made_of(tmp_path: Path, path: Path, **wishes: Any) -> Any:
    folder = tmp_path / "made"
    folder.mkdir(exist_ok=True)
    return make(Source.of(path), Wishes(**wishes), folder)


def refusal(tmp_path: Path, path: Path, **wishes: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as refused:
        made_of(tmp_path, path, **wishes)
    return refused.value


@pytest.mark.integration
async def test_an_onnx_file_becomes_a_version_and_goes_its_whole_way(run: Run, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(model().SerializeToString())
    dataset = "sha256:" + "d" * 64
    said = (
        "--tag",
        "team=vision",
        "--metric",
        "accuracy=0.93",
        "--dataset",
        dataset,
        "--description",
        "from elsewhere",
    )
    imported = await run("import", "net", str(tmp_path / "net.onnx"), *said, "-o", "json")
    assert imported.exit_code == 0, imported.stderr
    version = json.loads(imported.stdout)
    assert (version["forms"], version["stage"], version["tags"]) == (["model.onnx"], "NONE", {"team": "vision"})
    assert version["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}]
    assert "made of seed 0: give real ones with --golden" in imported.stderr
    again = await run("import", "net", str(tmp_path / "net.onnx"), "--parent", "net@1", "-o", "name")
    assert again.stdout == "projects/acme/models/net/versions/2\n"
    assert (await run("versions", "-f", "tags.team = vision AND metrics.accuracy > 0.9", "-o", "name")).stdout.count(
        "\n"
    ) == 1
    assert "staging" in (await run("stage", "net@2", "staging")).stdout
    assert "reviewed=yes" in (await run("tag", "net@2", "reviewed=yes", "-o", "wide")).stdout
    shown = (await run("show", "net@2")).stdout
    assert "x FP32[any, 4]" in shown
    assert "projects/acme/models/net/versions/1" in shown
    lineage = (await run("lineage", "net@2")).stdout
    assert "net@1" in lineage
    assert "dataset sha256:dddddddddddd" in lineage
    tainted = json.loads(
        (await run("lineage", "--taint", dataset, "--quarantine", "--reason", "bad", "-o", "json")).stdout
    )
    assert [each["name"][-1] for each in tainted["versions"]] == ["1", "2"]
    assert "quarantined" in (await run("versions", "net")).stdout
    assert (await run("stage", "net@2", "production")).exit_code == 19
    assert "quarantined" not in (await run("lineage", "--taint", dataset, "--release")).stdout
    assert (await run("export", "net@2", str(tmp_path / "out"))).exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "golden.safetensors", "package.json"}
    back = await run("import", "copy", str(tmp_path / "out"), "-o", "json")
    assert back.exit_code == 0, back.stderr
    assert json.loads(back.stdout)["files"] == json.loads((await run("show", "net@2", "-o", "json")).stdout)["files"]
    assert "(given)" in back.stderr
    assert (await run("delete", "net@1", "--yes")).exit_code == 0
    assert (await run("update", "net", "--protect")).exit_code == 0
    assert (await run("delete", "net", "--yes")).exit_code == 19
    assert "Delete net" in (await run("delete", "net", stdin="n\n")).stderr


async def test_what_is_refused_is_said_with_a_way_out(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "net.pt")
    (tmp_path / "net.bin").write_bytes(pickle.dumps({}))
    for name in ("net.pt", "net.bin"):
        refused = await run("import", "net", str(tmp_path / name))
        assert refused.exit_code != 0
        assert "safetensors.torch.save_file" in refused.stderr
    (tmp_path / "folder").mkdir()
    os.rename(tmp_path / "net.pt", tmp_path / "folder" / "pytorch_model.bin")  # noqa: PTH104
    assert "safetensors.torch.save_file" in (await run("import", "net", str(tmp_path / "folder"))).stderr
    assert (await run("list", "-o", "name")).stdout == "", "nothing was made"
    assert "no file" in (await run("import", "net", str(tmp_path / "nowhere"))).stderr


@pytest.mark.integration
def test_external_data_is_taken_in_from_beside_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.bin").write_bytes(b"s" * 16)
    (tmp_path / "in" / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    path = tmp_path / "in" / "net.onnx"
    path.write_bytes(external("w.bin", offset="0", length="16").SerializeToString())
    made = made_of(tmp_path, path)
    whole = onnx.load_model(made.files["model.onnx"])
    assert whole.graph.initializer[0].raw_data == np.arange(4, dtype=np.float32).tobytes()
    assert "external data was taken in" in made.remarks
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "secret.bin")
    for location, more in (
        ("../secret.bin", {}),
        ("link.bin", {}),
        (str(tmp_path / "secret.bin"), {}),
        ("w.bin", {"offset": "8", "length": "16"}),
        ("w.bin", {"length": "999"}),
        ("/etc/passwd", {}),
        ("w.bin\0", {}),
        (".", {}),
    ):
        path.write_bytes(external(location, **more).SerializeToString())
        with pytest.raises(Exception, match="MODEL_FILE_INVALID|FILE_NOT_FOUND"):
            made_of(tmp_path, path)


@pytest.mark.integration
def test_golden_requests_decide(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(model().SerializeToString())
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    np.savez(tmp_path / "good.npz", x=x, y=np.maximum(x, 0), labels=np.argmax(np.maximum(x, 0), axis=1))
    made = made_of(tmp_path, path, golden=tmp_path / "good.npz")
    assert (made.proof.rows, made.proof.is_made, made.proof.metrics) == (20, False, {"golden_accuracy": 1.0})
    np.savez(tmp_path / "wrong.npz", x=x, y=x)
    assert "answer y differs" in str(refusal(tmp_path, path, golden=tmp_path / "wrong.npz"))
    np.savez(tmp_path / "missing.npz", z=x)
    assert "no array 'x'" in str(refusal(tmp_path, path, golden=tmp_path / "missing.npz"))
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    assert refusal(tmp_path, path, golden=tmp_path / "objects.npz").reason == "MODEL_FILE_INVALID"


@pytest.mark.integration
def test_a_model_that_mixes_rows_or_gives_nan_is_not_proved(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for operator, problem in (("ReduceMean", "a row alone gets another answer"), ("Log", "NaN or infinity")):
        made = model()
        node = helper.make_node("Log", ["x"], ["y"])
        if operator == "ReduceMean":
            made.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [0]))
            node = helper.make_node("Sub", ["x", "mean"], ["y"])
            made.graph.node.append(helper.make_node("ReduceMean", ["x", "axis"], ["mean"]))
        made.graph.node.append(node)
        for each in [each for each in made.graph.node if each.op_type in ("Add", "Relu")]:
            made.graph.node.remove(each)
        path.write_bytes(made.SerializeToString())
        error = refusal(tmp_path, path)
        assert error.reason == "MODEL_NOT_PROVED"
        assert problem in str(error)


@pytest.mark.integration
def test_a_model_that_runs_away_is_stopped(tmp_path: Path) -> None:
    made = model()
    made.graph.initializer.append(helper.make_tensor("huge", TensorProto.INT64, [2], [1 << 19, 1 << 19]))
    made.graph.node.append(helper.make_node("ConstantOfShape", ["huge"], ["big"]))
    made.graph.node.append(helper.make_node("ReduceMax", ["big"], ["m"], keepdims=0))
    made.graph.node.append(helper.make_node("Add", ["y", "m"], ["z"]))
    made.graph.output[0].name = "z"
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    assert refusal(tmp_path, tmp_path / "net.onnx").reason == "MODEL_NOT_PROVED"
    (tmp_path / "net.onnx").write_bytes(model().SerializeToString())
    spec = {"form": "model.onnx", "model": str(tmp_path / "net.onnx"), "seed": 0, "below": {}, "sizes": {}}
    with pytest.raises(InvalidArgument, match="not done after 0 s"):
        proof.prove(spec, tmp_path, deadline_s=0.01)


@pytest.mark.integration
def test_weights_of_a_recipe_need_its_architecture(tmp_path: Path) -> None:
    module = models.build(Architecture.from_json(ARCHITECTURE))
    (tmp_path / "in").mkdir()
    save_file(module.state_dict(), tmp_path / "in" / "weights.safetensors")
    assert "--architecture" in str(refusal(tmp_path, tmp_path / "in"))
    (tmp_path / "in" / "architecture.json").write_text(json.dumps(ARCHITECTURE))
    made = made_of(tmp_path, tmp_path / "in")
    assert made.draft.architecture == Architecture.from_json(ARCHITECTURE)
    assert [tensor.shape for tensor in made.proof.signature.outputs] == [(-1, 10)]
    (tmp_path / "in" / "architecture.json").write_text(json.dumps({**ARCHITECTURE, "name": "evil"}))
    assert refusal(tmp_path, tmp_path / "in").reason in ("INVALID_FIELD", "MODEL_FILE_INVALID")


@pytest.mark.slow
def test_an_exported_program_loses_its_pickles_and_answers_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (torch.ones(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    x = torch.randn(5, 1, 8, 8)
    np.savez(tmp_path / "golden.npz", input=x.numpy(), output=module(x).detach().numpy())
    made = made_of(tmp_path, tmp_path / "net.pt2", golden=tmp_path / "golden.npz")
    assert made.proof.rows == 5
    assert any("pickle" in remark for remark in made.remarks)
    loaded = torch.export.load(made.files["model.pt2"]).module()
    assert torch.allclose(loaded(x), module(x), atol=1e-5)


@pytest.mark.slow
def test_weights_with_code_become_an_onnx_package(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\n\ndef build():\n    return nn.Linear(4, 3)\n")
    module = nn.Linear(4, 3)
    save_file(module.state_dict(), tmp_path / "net.safetensors")
    inputs = (models.Tensor(name="x", datatype="FP32", shape=(-1, 4)),)
    made = made_of(tmp_path, tmp_path / "net.safetensors", code=f"{tmp_path}/net.py:build", inputs=inputs)
    assert set(made.files) == {"model.onnx", "golden.safetensors"}
    assert "net.py" in str(made.draft.lineage["source"])


async def test_a_file_names_its_dataset_by_its_digest(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"rows")
    found = await run("lineage", "--taint", str(tmp_path / "data"))
    assert found.stdout == f"{digest_of(b'rows')}\n  has touched no version\n"
    assert (await run("lineage")).exit_code == 2
    assert (await run("lineage", "net", "--quarantine")).exit_code == 2


def test_a_manifest_that_leads_out_of_its_folder_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "model.onnx").symlink_to(tmp_path / "secret")
    document = {
        "format": "lepton.model/1",
        "files": {"model.onnx": digest_of(b"secret")},
        "metrics": {},
        "lineage": {},
        "signature": {"inputs": [], "outputs": []},
    }
    (folder / "package.json").write_text(json.dumps(document))
    with pytest.raises(InvalidArgument, match="link out of the folder"):
        Source.of(folder)
    document["files"] = {"../secret": digest_of(b"secret")}
    (folder / "package.json").write_text(json.dumps(document))
    with pytest.raises(InvalidArgument, match="plain relative path"):
        Source.of(folder)
    (tmp_path / "evil.pt2").write_bytes(archive(**{"../../x": b"x"}).getvalue())
    assert refusal(tmp_path, tmp_path / "evil.pt2").reason == "MODEL_FILE_INVALID"
