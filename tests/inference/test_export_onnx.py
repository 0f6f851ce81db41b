"""The export: a model package becomes an ONNX file that answers as the checkpoint did, at any batch size."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load, save

from lepton import models
from lepton.artifacts import ArtifactStore
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.golden import Golden
from lepton.models import Architecture, ModelPackage
from lepton.models.package import GOLDEN
from services.agent.served_model import ServedModel
from services.inference.compress.export_onnx import ExportSpec, convert, export, prove
from services.inference.triton_repository import CONFIG, render
from services.trainer.worker.package import store_package
from services.trainer.worker.spec import TrainingSpec
from tests.harness.serving import replica

PROJECT = "acme"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/artifacts")


@pytest.fixture
def package(store: ArtifactStore) -> str:
    """A package as the trainer's worker makes it, of an untrained model."""
    torch.manual_seed(3)
    architecture = Architecture(config={"channels": 1, "height": 8, "width": 8, "classes": 10}).complete()
    held_out = (torch.rand(32, 1, 8, 8) * 16, torch.zeros(32, dtype=torch.int64))
    dataset = store.put_bytes(PROJECT, b"the dataset")
    return store_package(
        store,
        TrainingSpec(project=PROJECT, dataset=dataset),
        models.build(architecture),
        held_out,
        architecture=architecture,
        metrics={"accuracy": 0.1},
        job="projects/acme/jobs/digits",
        checkpoint=dataset,
    )


@pytest.mark.integration
def test_the_program_exports_proves_and_reports_as_an_agent_runs_it(
    tmp_path: Path, store: ArtifactStore, package: str
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"project": PROJECT, "package": package}))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environment = {
            "PATH": os.environ["PATH"],
            "LEPTON_SPEC": str(spec),
            "LEPTON_PROJECT": PROJECT,
            "LEPTON_ARTIFACTS": store.url,
            "LEPTON_REPORT_FD": str(theirs.fileno()),
        }
        command = [sys.executable, "-m", "services.inference.compress.export_onnx"]
        subprocess.run(command, env=environment, pass_fds=[theirs.fileno()], check=True, timeout=100)
        theirs.close()
        with ours.makefile() as lines:
            (report,) = map(json.loads, lines)
    assert (report["kind"], report["name"]) == ("artifact", "onnx")
    onnx = store.read(PROJECT, report["digest"])

    golden = load(store.read(PROJECT, ModelPackage.parse(store.read(PROJECT, package)).files[GOLDEN]))
    runtime = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    for rows in (1, 7, 32):
        (logits,) = runtime.run(["logits"], {"x": golden["x"][:rows]})
        np.testing.assert_allclose(logits, golden["logits"][:rows], rtol=1e-4, atol=1e-4)


def test_an_export_that_answers_otherwise_is_refused(store: ArtifactStore, package: str) -> None:
    manifest = ModelPackage.parse(store.read(PROJECT, package))
    golden = load(store.read(PROJECT, manifest.files[GOLDEN]))
    weights = store.read(PROJECT, manifest.files["weights.safetensors"])
    onnx = convert(manifest, weights, save(golden))
    prove(onnx, manifest, save(golden))
    with pytest.raises(FailedPrecondition, match="EXPORT_MISMATCH"):
        prove(onnx, manifest, save({**golden, "logits": golden["logits"] + 0.01}))


@pytest.mark.integration
async def test_an_exported_package_is_served_and_proven(tmp_path: Path, store: ArtifactStore, package: str) -> None:
    onnx = store.read(PROJECT, await asyncio.to_thread(export, store, ExportSpec(project=PROJECT, package=package)))
    manifest = ModelPackage.parse(store.read(PROJECT, package))
    files = render("acme.digits", onnx, manifest.signature)
    golden = Golden.parse(store.read(PROJECT, manifest.files[GOLDEN]), files[CONFIG].decode())
    model = ServedModel(name="acme.digits", files=dict(files), golden=golden)
    async with replica(tmp_path / "replica", [model]) as running:
        await running.ready()


@pytest.mark.parametrize("data", [b"", b"[]", b'{"project": "acme"}', b'{"project": "acme", "package": "latest"}'])
def test_a_spec_that_names_no_package_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        ExportSpec.parse(data)
