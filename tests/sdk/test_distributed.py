"""Distributed training in one call: what may be given, what becomes of it, where it runs, what is told and returned."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton import data, models
from lepton.distributed import distributed_train, fleet
from lepton.distributed.config import DistributedTrainConfig
from lepton.distributed.datasets import dataset_of
from lepton.distributed.fleet import Devices, devices
from lepton.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from lepton.scheduler.v1.node_pb2 import Node
from lepton.trainer.v1.job_pb2 import Job, JobError, Parallelism
from tests.harness.small_lepton import SmallLepton
from tests.harness.wait import until
from tests.sdk.test_curves import point

X = np.arange(20 * 4, dtype=np.uint8).reshape(20, 1, 2, 2)
Y = np.arange(20) % 2


def images(first: int = 0, last: int = 20) -> data.Dataset:
    return data.Dataset(x=X[first:last], y=Y[first:last].astype(np.int64))


@pytest.mark.parametrize(
    "model",
    [
        "image_classifier",
        "ImageClassifier",
        models.ImageClassifier,
        models.ImageClassifier(),
        models.Architecture(config={"classes": 2}),
    ],
)
def test_a_model_is_named_in_many_ways(model: Any) -> None:
    config = DistributedTrainConfig(model, [X, Y], 10, 32, 4)
    assert (config.recipe, config.epochs, config.batch_size, config.gpu_count) == ("image_classifier", 10, 32, 4)
    assert config.settings == {}


def test_a_models_settings_go_into_the_job() -> None:
    config = DistributedTrainConfig(
        models.ImageClassifier(features=8), [X, Y], epochs=3, gpu_count=4, strategy="fsdp", pools=["fast"], seed=7
    )
    job = distributed_train.job_of(config, "sha256:" + "1" * 64, Devices(each=0, words=""))
    assert (job.recipe.name, job.recipe.epochs, job.recipe.batch_size, job.recipe.seed) == (
        "image_classifier",
        3,
        32,
        7,
    )
    assert dict(job.recipe.model) == {"features": 8}
    assert (job.workers.count, job.workers.devices, job.workers.HasField("devices")) == (4, 0, True)
    assert (list(job.pools), job.parallelism.data) == (["pools/fast"], Parallelism.FSDP)
    of_architecture = DistributedTrainConfig(models.Architecture(config={"hidden": 8, "classes": 2}), [X, Y])
    assert of_architecture.settings == {"hidden": 8}  # the classes are the data's


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("epochs", {"epochs": 0}),
        ("batch_size", {"batch_size": 1.5}),
        ("gpu_count", {"gpu_count": True}),
        ("learning_rate", {"learning_rate": -1.0}),
        ("test_fraction", {"test_fraction": 1.0}),
        ("strategy", {"strategy": "magic"}),
        ("model", {"model": "no_such_thing"}),
        ("model", {"model": np.zeros(3)}),
    ],
)
def test_what_can_never_be_trained_is_refused_at_once(field: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        DistributedTrainConfig(**{"model": "image_classifier", "data": [X, Y], **given})
    assert field in refused.value.fields


def of_images(given: Any) -> data.Dataset:
    found = dataset_of(given, "images")
    assert isinstance(found, data.Dataset)
    return found


def test_data_are_given_in_many_ways(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    whole = images()
    for given in (whole, [whole], [X, Y], [(X, Y)], [X[:, 0], Y], str(tmp_path / "a.npz"), [tmp_path / "a.npz"]):
        found = of_images(given)
        assert np.array_equal(found.x, X)
        assert np.array_equal(found.y, Y)
        assert found.x_test is None
    np.savez(tmp_path / "b.npz", x=X[:5], y=Y[:5])
    for given in (
        [whole, images(0, 5)], [X, Y, X[:5], Y[:5]], [(X, Y), (X[:5], Y[:5])], [tmp_path / "a.npz", tmp_path / "b.npz"],
    ):  # fmt: skip
        found = of_images(given)
        assert found.x_test is not None
        assert (len(found), len(found.x_test)) == (20, 5)


def test_tensors_are_arrays_too() -> None:
    torch = pytest.importorskip("torch")
    assert np.array_equal(of_images([torch.from_numpy(X), torch.from_numpy(Y)]).x, X)


@pytest.mark.parametrize(
    ("given", "kind", "problem"),
    [
        ([], "images", "is empty"),
        ([X], "images", "1 arrays"),
        ([images()] * 3, "images", "3 parts"),
        ([object()], "images", "is a object"),
        ([X, Y], "table", "give a path"),
        (images(), "table", "takes table"),
    ],
)
def test_data_that_cannot_be_used_say_what_can(given: Any, kind: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        dataset_of(given, kind)
    assert problem in str(refused.value.fields)


def test_train_and_test_data_divide_what_there_is(tmp_path: Path) -> None:
    train, test = data.load_train_data(), data.load_test_data()
    assert (len(train), len(test)) == (1438, 359)
    whole = {image.tobytes() for image in data.digits().x}
    assert {image.tobytes() for image in (*train.x, *test.x)} == whole
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5])
    assert (len(data.load_train_data(tmp_path / "a.npz")), len(data.load_test_data(tmp_path / "a.npz"))) == (20, 5)
    assert len(data.load_test_data(test_fraction=0.5)) == 898


def node(name: str, *device_models: str, state: Any = Node.READY) -> Node:
    made = Node(name=name, state=state)
    for model in device_models:
        made.devices.add(model=model)
    return made


def test_ranks_get_gpus_where_there_are_any_and_else_it_is_said() -> None:
    virtual = node("pools/general/nodes/a", "virtual", "virtual")
    gpus = node("pools/fast/nodes/b", "h100", "h100")
    found = devices([virtual, gpus], 4)
    assert (found.each, "one GPU each, of 2 (h100)" in found.words) == (1, True)
    assert devices([virtual, gpus], 2, ["general"]).words == (
        "2 ranks on CPUs, which speak gloo: there are no GPUs here, only 2 virtual devices"
    )
    assert devices([virtual], 3) == Devices(each=0, words="3 ranks on CPUs, which speak gloo: there are no GPUs here")
    lost = node("pools/fast/nodes/b", "h100", state=Node.STATE_UNSPECIFIED)
    assert devices([lost], 1).each == 0


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        monkeypatch.setenv("LEPTON_PROFILE", str(tmp_path / "profile.toml"))
        monkeypatch.setenv("LEPTON_API_KEY", "lpk_good")
        monkeypatch.delenv("LEPTON_HOME", raising=False)
        monkeypatch.delenv("LEPTON_PROJECT", raising=False)
        yield serving


def config(**fields: Any) -> DistributedTrainConfig:
    return DistributedTrainConfig(models.ImageClassifier(), [X, Y], 2, 8, 2, name="digits", **fields)


NAME = "projects/acme/jobs/digits"


async def test_a_training_is_told_and_returned(world: SmallLepton, capsys: pytest.CaptureFixture[str]) -> None:
    # In a loop that runs already, as in a notebook; in a thread only because the servers live in this loop.
    training = asyncio.create_task(asyncio.to_thread(distributed_train.train, config()))
    await until(lambda: world.count("StreamMetrics"))
    world.points[NAME] = [
        point(1, 1, loss=1.0), point(2, 2, loss=0.75, samples_per_s=50.0), point(3, 2, validation_loss=0.5),
        point(4, 11, loss=0.25),
    ]  # fmt: skip
    world.table(Job).change(NAME, state=Job.RUNNING)
    package = "sha256:" + "2" * 64
    world.table(Job).change(NAME, state=Job.SUCCEEDED, metrics={"test_accuracy": 0.75}, package=package)
    result = await training
    assert (result.name, result.package, result.metrics) == (NAME, package, {"test_accuracy": 0.75})
    assert result.history == {"loss": [1.0, 0.75, 0.25], "samples_per_s": [50.0], "validation_loss": [0.5]}
    assert "no GPUs" in result.devices
    told = capsys.readouterr().err.splitlines()
    assert "training image_classifier: 2 ranks on CPUs, which speak gloo: there are no GPUs here" in told
    assert f"submitted {NAME}" in told
    assert "epoch 1/2  loss 0.7500  validation_loss 0.5000  50 samples/s" in told
    assert "epoch 2/2  loss 0.2500" in told
    (stored,) = world.artifacts.values()
    assert np.array_equal(data.from_safetensors(stored).x, X)
    assert result.plot("loss").axes


async def test_a_training_that_fails_says_why_and_what_helps(world: SmallLepton) -> None:
    training = asyncio.create_task(distributed_train.train_async(config(verbose=False)))
    await until(lambda: world.count("StreamMetrics"))
    error = JobError(message="CUDA out of memory", advice="halve the batch")
    world.table(Job).change(NAME, state=Job.FAILED, error=error)
    with pytest.raises(FailedPrecondition, match="TRAINING_FAILED.*CUDA out of memory halve the batch"):
        await training


async def test_who_waits_no_longer_is_told_that_the_job_goes_on(
    world: SmallLepton, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeadlineExceeded, match="WAIT_TIMED_OUT"):
        await distributed_train.train_async(config(timeout_s=0.2))
    assert "the job goes on: lepton jobs watch digits" in capsys.readouterr().err
    assert world.table(Job).get(NAME).state == Job.PENDING


async def test_without_a_profile_a_stack_is_started_and_its_failure_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEPTON_PROFILE", raising=False)
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    told: list[str] = []
    # The program that starts it: one that fails.
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "  starting etcd"\necho "error: no etcd ($LEPTON_HOME)" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", os.fspath(program))
    with pytest.raises(FailedPrecondition, match="STACK_NOT_STARTED") as failed:
        await fleet.reach("", told.append)
    assert f"no etcd ({tmp_path}/home)" in failed.value.message
    assert "starting one on this machine" in told[0]
    assert "starting etcd" in told
    monkeypatch.setattr(fleet, "_is_installed", lambda: False)
    with pytest.raises(FailedPrecondition, match="STACK_NOT_INSTALLED"):
        await fleet.reach("", told.append)


async def test_a_profile_that_is_named_but_missing_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEPTON_PROFILE", str(tmp_path / "none.toml"))
    with pytest.raises(FailedPrecondition, match="PROFILE_MISSING"):
        await fleet.reach("", lambda _: pytest.fail("nothing is to be told"))
