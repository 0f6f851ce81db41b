"""Images for those who hold out their own test set: what is trained on, and what is only measured on."""

from pathlib import Path

from lepton.data.dataset import Dataset, split
from lepton.data.sources import load

_TEST_FRACTION = 0.2
_SEED = 0


def load_train_data(source: str | Path = "digits", *, test_fraction: float = _TEST_FRACTION) -> Dataset:
    """The images to train on: all but the test set that the data came with, else but a seeded `test_fraction`."""
    return _parts(source, test_fraction)[0]


def load_test_data(source: str | Path = "digits", *, test_fraction: float = _TEST_FRACTION) -> Dataset:
    """The images that `load_train_data` leaves out."""
    return _parts(source, test_fraction)[1]


def _parts(source: str | Path, test_fraction: float) -> tuple[Dataset, Dataset]:
    whole = load(str(source))
    if whole.x_test is not None and whole.y_test is not None:
        test = Dataset(x=whole.x_test, y=whole.y_test, names=whole.names)
        return Dataset(x=whole.x, y=whole.y, names=whole.names), test
    parts = split(len(whole), test_fraction=test_fraction, seed=_SEED)
    return (
        Dataset(x=whole.x[parts.train], y=whole.y[parts.train], names=whole.names),
        Dataset(x=whole.x[parts.test], y=whole.y[parts.test], names=whole.names),
    )
