"""A store, one thread for torch, and models trained once for all tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lepton.artifacts import ArtifactStore
from tests.inference.compress.trained import Trained, digits


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Training is the same on machines of any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A convolutional network trained on scikit-learn's digits."""
    folder: Path = tmp_path_factory.mktemp("artifacts")
    return digits(ArtifactStore(f"file://{folder}"))
