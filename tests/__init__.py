"""Tests, laid out as the source is."""

import lepton  # noqa: F401  # before gRPC, which learns from it that this process forks
