"""The image_classifier recipe end to end: four real ranks from a real launcher train on real digits."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch
from safetensors.torch import load

from lepton import data, models
from services.agent.launcher import Exit, LauncherClient
from tests.harness.gang import PROJECT, PlayedAgent, Workplace, make_workplace, start_gang

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.integration]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def launcher() -> AsyncIterator[LauncherClient]:
    async with LauncherClient(os.environ) as opened:
        await opened.ready()
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trained(
    launcher: LauncherClient, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workplace, PlayedAgent, float]:
    place = make_workplace(tmp_path_factory.mktemp("digits"))
    began = time.monotonic()
    gang = await start_gang(launcher, world_size=4, folder=place.folder, env=place.env(place.spec()))
    assert await gang.finish() == [Exit(code=0)] * 4, gang.errors
    return place, gang, time.monotonic() - began


async def test_a_gang_of_four_learns_digits(trained: tuple[Workplace, PlayedAgent, float]) -> None:
    _, gang, seconds = trained
    (package,) = gang.of_kind("package")
    print(f"accuracy {package['metrics']['accuracy']:.4f}, first step {gang.first_step_s:.3f} s, all {seconds:.1f} s")
    assert package["metrics"]["test_accuracy"] >= 0.98
    assert gang.first_step_s < 5  # 0.13-0.3 s on two quiet cores; the limit is for a busy machine
    assert set(gang.errors.values()) == {""}


async def test_progress_loss_accuracy_and_rate_are_reported_by_rank_0(
    trained: tuple[Workplace, PlayedAgent, float],
) -> None:
    _, gang, _ = trained
    assert {rank for rank, report in gang.reports if report["kind"] not in ("state", "pace")} == {0}
    assert {rank for rank, report in gang.reports if report["kind"] == "pace"} == {0, 1, 2, 3}
    running = [report for report in gang.of_kind("metrics") if "loss" in report["values"]]
    chosen_by = [report for report in gang.of_kind("metrics") if "validation_accuracy" in report["values"]]
    assert [report["step"] for report in running] == list(range(10, 230, 10))
    assert {report["total_steps"] for report in running} == {220}
    assert [report["epoch"] for report in chosen_by] == list(range(20))
    assert running[-1]["progress"] == 1.0
    assert running[-1]["values"]["loss"] < 0.2 * running[0]["values"]["loss"]
    assert all(report["values"]["samples_per_s"] > 0 for report in running)
    assert [report["phase"] for report in gang.of_kind("state")].count("finished") == 4


async def test_the_test_accuracy_is_the_packages_own(trained: tuple[Workplace, PlayedAgent, float]) -> None:
    place, gang, _ = trained
    package = models.ModelPackage.parse(place.store.read(PROJECT, gang.of_kind("package")[0]["digest"]))
    model = models.build(package.architecture)
    model.load_state_dict(load(place.store.read(PROJECT, package.files["weights.safetensors"])))
    digits, spec = data.digits(), place.spec()
    test = data.split(len(digits), test_fraction=spec.test_fraction, seed=spec.seed).test
    with torch.no_grad():
        guesses = model.eval()(torch.from_numpy(digits.x[test]).float()).argmax(1).numpy()
    assert np.mean(guesses == digits.y[test]) == pytest.approx(package.metrics["test_accuracy"], abs=1e-9)


async def test_the_package_says_what_it_is_and_where_it_comes_from(
    trained: tuple[Workplace, PlayedAgent, float],
) -> None:
    place, gang, _ = trained
    document = place.read_json(gang.of_kind("package")[0]["digest"])
    assert document["format"] == "lepton.model/1"
    assert document["architecture"]["config"] == {
        "channels": 1, "height": 8, "width": 8, "classes": 10, "features": 32, "hidden": 128, "poolings": 1,
    }  # fmt: skip
    assert document["signature"] == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }
    lineage = document["lineage"]
    assert (lineage["job"], lineage["dataset"]) == (f"projects/{PROJECT}/jobs/digits", place.dataset)
    assert lineage["checkpoint"] == gang.of_kind("checkpoint")[-1]["manifest"]
    assert (lineage["recipe"], lineage["seed"]) == ("image_classifier", 0)


async def test_the_golden_outputs_are_those_of_the_packaged_weights_on_held_out_images(
    trained: tuple[Workplace, PlayedAgent, float],
) -> None:
    place, gang, _ = trained
    package = models.ModelPackage.parse(place.store.read(PROJECT, gang.of_kind("package")[0]["digest"]))
    golden = load(place.store.read(PROJECT, package.files["golden.safetensors"]))
    assert len(golden["x"]) == len(golden["logits"]) == len(golden["y"]) == 128
    model = models.build(package.architecture)
    model.load_state_dict(load(place.store.read(PROJECT, package.files["weights.safetensors"])))
    with torch.no_grad():
        assert torch.allclose(model.eval()(golden["x"]), golden["logits"], atol=1e-5)
    digits, spec = data.digits(), place.spec()
    test = data.split(len(digits), test_fraction=spec.test_fraction, seed=spec.seed).test[:128]
    assert np.array_equal(golden["x"].numpy(), digits.x[test].astype(np.float32))
    assert np.array_equal(golden["y"].numpy(), digits.y[test])


async def test_a_checkpoint_is_committed_for_every_epoch(trained: tuple[Workplace, PlayedAgent, float]) -> None:
    place, gang, _ = trained
    manifests = [place.read_json(report["manifest"]) for report in gang.of_kind("checkpoint")]
    assert [manifest["epoch"] for manifest in manifests] == list(range(1, 21))
    assert [manifest["samples"] for manifest in manifests] == [1294 * epoch for epoch in range(1, 21)]
    assert all(manifest["world_size"] == 4 for manifest in manifests)
    assert {manifest["config_digest"] for manifest in manifests} == {place.spec().digest}


async def test_any_images_can_be_learned_also_by_more_ranks_than_the_last_batch_has_images(
    launcher: LauncherClient, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 42)
    images = generator.normal(size=(42, 3, 5, 7)) + 5 * labels[:, None, None, None]
    place = make_workplace(tmp_path, data.Dataset(x=images.astype(np.float32), y=labels.astype(np.int64)))
    spec = place.spec(epochs=8, batch_size=7, model={"shift_pixels": 0})  # 31 training images: the last batch has three
    gang = await start_gang(launcher, world_size=4, folder=tmp_path, env=place.env(spec))
    assert await gang.finish() == [Exit(code=0)] * 4, gang.errors
    assert gang.of_kind("package")[0]["metrics"]["accuracy"] == 1.0
