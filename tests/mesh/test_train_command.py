"""A user's own images, from a folder to a trained model, by one command on a running stack."""

import gzip
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lepton.client import AsyncClient
from tests.harness.datasets import mnist_like
from tests.mesh.conftest import PROJECT, Stack

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


def write_idx(path: Path, array: NDArray[Any]) -> None:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), 1))


def lepton(stack: Stack, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LEPTON_PROFILE": str(stack.home.profile_file), "LEPTON_PROJECT": PROJECT}
    command = [sys.executable, "-m", "lepton.cli", *words]
    return subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, timeout=500)


def test_ten_thousand_images_are_learned_by_four_workers(stack: Stack, client: AsyncClient, tmp_path: Path) -> None:
    """The commonest of ten digits is right in one of ten cases; what is asked for is 97 %."""
    images = mnist_like(10_000, seed=7)
    write_idx(tmp_path / "mine-images-idx3-ubyte.gz", images.x[:, 0])
    write_idx(tmp_path / "mine-labels-idx1-ubyte.gz", images.y)
    signed_in = lepton(stack, "login", "--user", "admin", stdin=stack.home.admin_password.read_text())
    assert signed_in.returncode == 0, signed_in.stderr
    began = time.monotonic()
    trained = lepton(
        stack, "train", "image_classifier", "--data", str(tmp_path), "--workers", "4", "--epochs", "10",
        "--batch-size", "32", "--wait", "-o", "json",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    job = json.loads(trained.stdout)
    print(f"test accuracy {job['metrics']['test_accuracy']:.4f} in {time.monotonic() - began:.0f} s")
    assert job["state"] == "SUCCEEDED"
    assert job["metrics"]["test_accuracy"] >= 0.97
    assert job["package"].startswith("sha256:")
    assert "submitted" in trained.stderr
