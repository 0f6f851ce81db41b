"""Fixtures that every test may ask for, which examples hypothesis draws, and the order of the files."""

import os
from collections import defaultdict

import pytest
from hypothesis import settings

# Tensors are small here: threads that share a processor with other workers spin for longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

pytest_plugins = ["tests.harness.etcd", "tests.harness.triton_race"]

# A change is judged by what it changes: `make test` draws the same examples every time. `make test-all` draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("new", print_blob=True)
settings.load_profile(os.environ.get("LEPTON_EXAMPLES", "repeatable"))


# What a test is likely to take, roughly; beside these a tenth of the time limit that it sets itself.
_EXPECTED_S = {"exhaustive": 8.0, "integration": 1.0}
_QUICK_S = 0.03


@pytest.hookimpl(trylast=True)  # after those that are not to run have gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: one that came last would keep a worker busy while the other has nothing to do."""
    expected: dict[str, float] = defaultdict(float)
    for item in items:
        expected[_file(item)] += _expected_s(item)
    items.sort(key=lambda item: (-expected[_file(item)], _file(item)))


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _expected_s(item: pytest.Item) -> float:
    limit = item.get_closest_marker("timeout")
    return max(
        limit.args[0] / 10 if limit is not None and limit.args and limit.args[0] > 120 else _QUICK_S,
        *(seconds for name, seconds in _EXPECTED_S.items() if item.get_closest_marker(name) is not None),
        _QUICK_S,
    )
