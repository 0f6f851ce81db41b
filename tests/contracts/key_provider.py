"""What every key provider must do: subclass KeyProviderContract, give it the fixtures, and the suite runs."""

import os
from collections.abc import Callable

import pytest

from lepton.artifacts import RotatingKeyProvider
from lepton.errors import FailedPrecondition

LARGEST = 900  # what the header of an artifact has room for


class KeyProviderContract:
    """The suite. `provider` wraps; `rotate` gives one with another key that knows the former; `stranger` knows none."""

    @pytest.fixture
    def provider(self) -> RotatingKeyProvider:
        raise NotImplementedError

    @pytest.fixture
    def rotate(self) -> Callable[[], RotatingKeyProvider]:
        raise NotImplementedError

    @pytest.fixture
    def stranger(self) -> RotatingKeyProvider:
        raise NotImplementedError

    def test_what_is_wrapped_comes_back(self, provider: RotatingKeyProvider) -> None:
        key = os.urandom(32)
        wrapped = provider.wrap(key)
        assert provider.unwrap(wrapped) == key
        assert key not in wrapped
        assert len(wrapped) <= LARGEST

    def test_equal_keys_are_never_wrapped_alike(self, provider: RotatingKeyProvider) -> None:
        key = os.urandom(32)
        assert len({provider.wrap(key) for _ in range(20)}) == 20

    def test_no_change_to_what_is_wrapped_goes_unnoticed(self, provider: RotatingKeyProvider) -> None:
        wrapped = provider.wrap(os.urandom(32))
        for at in (40, len(wrapped) // 2, len(wrapped) - 1):
            changed = bytearray(wrapped)
            changed[at] ^= 1
            with pytest.raises(FailedPrecondition):
                provider.unwrap(bytes(changed))
        for cut in (b"", wrapped[:31], wrapped[:45], wrapped[:-1]):
            with pytest.raises(FailedPrecondition):
                provider.unwrap(cut)

    def test_a_stranger_opens_nothing(self, provider: RotatingKeyProvider, stranger: RotatingKeyProvider) -> None:
        wrapped = provider.wrap(os.urandom(32))
        with pytest.raises(FailedPrecondition):
            stranger.unwrap(wrapped)

    def test_after_a_rotation_the_former_key_unwraps_and_wraps_no_more(
        self, provider: RotatingKeyProvider, rotate: Callable[[], RotatingKeyProvider]
    ) -> None:
        key = os.urandom(32)
        before, former = provider.wrap(key), provider.current
        assert provider.is_current(before)
        rotated = rotate()
        assert rotated.current != former
        assert not rotated.is_current(before)
        assert rotated.unwrap(before) == key
        again = rotated.wrap(key)
        assert rotated.is_current(again)
        assert rotated.unwrap(again) == key
