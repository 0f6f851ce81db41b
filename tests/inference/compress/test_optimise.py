"""Variants of models trained for real: measured, packaged, smaller, and as accurate as the rule asks."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from chassis.artifacts import ArtifactStore as AsyncArtifactStore
from lepton.artifacts import ArtifactStore
from lepton.errors import InvalidArgument
from lepton.models import ModelPackage
from lepton.models.package import GOLDEN, ONNX, WEIGHTS
from services.inference import repository
from services.inference.compress import onnx_files
from services.inference.compress.engines import keys
from services.inference.compress.export_onnx import ExportSpec, export, prove
from services.inference.compress.figures import Report
from services.inference.compress.optimise import Spec, optimise
from services.inference.compress.samples import gather
from services.inference.triton_repository.options import Engine, ServingOptions
from services.inference.triton_repository.variants import variants
from tests.harness.datasets import stories
from tests.inference.compress.trained import PROJECT, VERSION, Trained, story

pytestmark = pytest.mark.integration  # it trains, exports and measures networks


def made(model: Trained, variant: str, **options: object) -> Report:
    """The report of a variant, printed; what is told is of one piece."""
    told: list[float] = []
    spec = Spec(project=PROJECT, package=model.package, variant=variant, parent=VERSION, **options)  # type: ignore[arg-type]
    report = optimise(model.store, spec, lambda phase, done: told.append(done))
    assert report.not_applicable or (told == sorted(told) and told[-1] == 1)
    if report.figures is not None and report.original is not None:
        print(
            f"{variant}: {report.figures.bytes / report.original.bytes:.3f} of the size, accuracy "
            f"{report.figures.accuracy:.4f}, drop {report.figures.accuracy_drop:+.4f} of {report.figures.evaluated}, "
            f"p50 {report.figures.latency_p50_us:.0f} us against {report.original.latency_p50_us:.0f}"
        )
    return report


def package(model: Trained, digest: str) -> ModelPackage:
    return ModelPackage.parse(model.store.read(PROJECT, digest))


@pytest.mark.parametrize("variant", ["pruned-int8", "int8-static", "int8-dynamic"])
def test_a_network_half_the_size_or_less_loses_half_a_percent_at_most(network: Trained, variant: str) -> None:
    report = made(network, variant, epochs=6)
    assert report.figures is not None
    assert report.original is not None
    assert network.accuracy > 0.95
    assert report.original.accuracy == pytest.approx(network.accuracy)
    assert report.figures.accuracy_drop <= 0.005
    assert report.figures.bytes <= report.original.bytes / 2
    assert (report.figures.measure, report.figures.evaluated_on) == ("accuracy", "held-out samples")
    assert report.figures.evaluated == 359
    assert 0 < report.figures.latency_p50_us <= report.figures.latency_p99_us


def test_a_variant_is_a_package_that_proves_itself_and_says_where_it_comes_from(network: Trained) -> None:
    report = made(network, "int8-static", optimization="projects/acme/models/m/optimizations/o")
    mine, parent = package(network, report.package), package(network, network.package)
    assert mine.lineage["parent"] == VERSION
    assert mine.lineage["optimization"] == "projects/acme/models/m/optimizations/o"
    assert (mine.lineage["dataset"], mine.lineage["variant"]) == (parent.lineage["dataset"], "int8-static")
    assert mine.signature == parent.signature
    assert WEIGHTS not in mine.files
    store = network.store
    golden, theirs = (load(store.read(PROJECT, each.files[GOLDEN])) for each in (mine, parent))
    np.testing.assert_array_equal(golden["x"], theirs["x"])
    np.testing.assert_array_equal(golden["y"], theirs["y"])
    assert np.abs(golden["logits"] - theirs["logits"]).max() > 0  # its own answers, not the original's
    assert export(store, ExportSpec(project=PROJECT, package=report.package)) == mine.files[ONNX]
    prove(store.read(PROJECT, mine.files[ONNX]), mine, store.read(PROJECT, mine.files[GOLDEN]))


def test_a_pruned_network_has_fewer_weights_and_a_sparse_one_only_compresses(network: Trained) -> None:
    pruned, sparse = made(network, "pruned", epochs=2), made(network, "sparse", epochs=2)
    assert pruned.figures is not None
    assert pruned.original is not None
    assert pruned.figures.parameters < 0.7 * pruned.original.parameters
    assert pruned.figures.bytes < 0.7 * pruned.original.bytes
    assert "first" in pruned.notes[0]
    assert sparse.figures is not None
    assert sparse.original is not None
    assert sparse.figures.bytes > 0.9 * sparse.original.bytes
    assert sparse.figures.nonzero_parameters < 0.6 * sparse.original.nonzero_parameters
    assert sparse.figures.compressed_bytes < 0.7 * sparse.original.compressed_bytes


def test_without_a_recipe_what_needs_the_module_does_not_suit_and_the_rest_does(network: Trained) -> None:
    original = package(network, network.package)
    onnx = export(network.store, ExportSpec(project=PROJECT, package=network.package))
    golden = load(network.store.read(PROJECT, original.files[GOLDEN]))
    del golden["y"]
    files = {ONNX: onnx, GOLDEN: network.store.put_bytes(PROJECT, save(golden))}
    bare = replace(original, architecture=None, files=files, lineage={"source": "a file"})
    model = replace(network, package=network.store.put_bytes(PROJECT, bare.render()))
    assert "no recipe" in made(model, "pruned").not_applicable
    assert "no recipe" in made(model, "aot-fp32").not_applicable
    report = made(model, "int8-dynamic")
    assert report.figures is not None
    assert (report.figures.measure, report.figures.evaluated_on) == ("agreement", "golden samples")
    assert report.figures.accuracy > 0.95


def test_golden_samples_alone_do_for_int8_but_not_to_retune(network: Trained) -> None:
    original = package(network, network.package)
    lone = replace(original, lineage={"dataset": "sha256:" + "0" * 64, "seed": 0})
    model = replace(network, package=network.store.put_bytes(PROJECT, lone.render()))
    assert "--data" in made(model, "pruned").not_applicable
    report = made(model, "int8-static")
    assert report.figures is not None
    assert (report.figures.measure, report.figures.evaluated_on) == ("accuracy", "golden samples")


def test_samples_that_do_not_go_with_the_model_are_refused(network: Trained) -> None:
    from lepton import data

    digest = network.store.put_bytes(PROJECT, data.to_safetensors(stories(1000, 1)))
    with pytest.raises(InvalidArgument, match="does not go with image_classifier"):
        gather(network.store, PROJECT, package(network, network.package), digest)


def test_what_is_judged_on_is_never_learned_from(network: Trained) -> None:
    samples = gather(network.store, PROJECT, package(network, network.package))
    assert samples.training is not None
    assert samples.validation is not None
    rows = [{row.tobytes() for row in part.inputs["x"]} for part in (samples.judged, samples.training)]
    assert len(samples.judged) + len(samples.training) + len(samples.validation) == 1797
    assert len(rows[0] & rows[1]) < 5  # the data itself holds a few pictures twice


def test_an_engine_for_a_gpu_does_not_suit_a_machine_without_one(network: Trained) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "no GPU" in made(network, "aot-bf16").not_applicable
    assert "no GPU" in made(network, "tensorrt-fp16").not_applicable


def test_the_program_reports_its_progress_and_its_report_as_an_agent_runs_it(tmp_path: Path, network: Trained) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"project": PROJECT, "package": network.package, "variant": "graph"}))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environment = {
            "PATH": os.environ["PATH"],
            "OMP_NUM_THREADS": "1",
            "LEPTON_SPEC": str(spec),
            "LEPTON_PROJECT": PROJECT,
            "LEPTON_ARTIFACTS": network.store.url,
            "LEPTON_REPORT_FD": str(theirs.fileno()),
        }
        command = [sys.executable, "-m", "services.inference.compress.optimise"]
        subprocess.run(command, env=environment, pass_fds=[theirs.fileno()], check=True, timeout=100)
        theirs.close()
        with ours.makefile() as lines:
            reports = [json.loads(line) for line in lines]
    phases = [line["phase"] for line in reports if line["kind"] == "state"]
    assert phases[0] == "0% reading"
    assert phases[-1] == "100% done"
    (artifact,) = (line for line in reports if line["kind"] == "artifact")
    report = Report.parse(network.store.read(PROJECT, artifact["digest"]))
    assert (artifact["name"], report.variant) == ("report", "graph")
    assert report.package


@pytest.mark.parametrize("data", [b"", b"{}", b'{"project": "p", "package": "sha256:1", "variant": "graph"}'])
def test_a_spec_that_says_nothing_useful_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        Spec.parse(data)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["pruned-int8-dynamic", "pruned-int8", "distilled-int8"])
def test_a_transformer_half_the_size_or_less_loses_half_a_percent_at_most(tmp_path: Path, variant: str) -> None:
    model = story(ArtifactStore(f"file://{tmp_path}"), stories(60_000, 1))
    report = made(model, variant)
    assert report.figures is not None
    assert report.original is not None
    assert model.accuracy > 0.85
    assert report.figures.accuracy_drop <= 0.005
    assert report.figures.bytes <= report.original.bytes / 2
    assert report.figures.evaluated > 10_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_aot_inductor_engine_answers_as_the_model_does(tmp_path: Path, network: Trained) -> None:
    if shutil.which("g++") is None:
        assert "g++" in made(network, "aot-fp32").not_applicable
        return
    report = made(network, "aot-fp32")
    assert report.figures is not None
    assert report.figures.accuracy_drop == 0
    mine = package(network, report.package)
    (key,) = keys(mine.files)
    assert str(key) == report.engine_key
    (engine,) = asyncio.run(repository.engines(mine, PROJECT, AsyncArtifactStore(network.store.url)))
    assert (engine.key, engine.golden) == (key, mine.files[f"engines/{key}/golden.safetensors"])
    first, *others = variants("acme.net", {1: mine.files[ONNX]}, mine.signature, ServingOptions(), engines=[engine])
    assert (first.key, first.golden, first.requires.device) == (str(key), engine.golden, key.device)
    assert {each.engine for each in others} == {Engine.ONNXRUNTIME}
    golden = load(network.store.read(PROJECT, mine.files[GOLDEN]))
    (answer,) = onnx_files.runner(network.store.read(PROJECT, mine.files[ONNX]), ["logits"])({"x": golden["x"]})
    np.testing.assert_allclose(answer, golden["logits"], rtol=1e-4, atol=1e-4)  # the fallback is in the package too
