"""Fixtures that every test may ask for, and which examples hypothesis draws."""

import os

from hypothesis import settings

pytest_plugins = ["tests.harness.etcd"]

# A change is judged by what it changes: `make test` draws the same examples every time. `make test-all` draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("new", print_blob=True)
settings.load_profile(os.environ.get("LEPTON_EXAMPLES", "repeatable"))
