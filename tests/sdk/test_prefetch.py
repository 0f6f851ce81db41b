"""Prefetching: the same items in the same order, prepared ahead, and nothing left behind."""

import threading

import pytest

from lepton.train.prefetch import Prefetch
from tests.harness.wait import until


def test_items_come_in_order_and_prepared() -> None:
    with Prefetch(range(100), lambda number: number * number) as squares:
        assert list(squares) == [number * number for number in range(100)]


async def test_no_more_is_prepared_ahead_than_was_asked_for() -> None:
    prepared: list[int] = []

    def prepare(number: int) -> int:
        prepared.append(number)
        return number

    with Prefetch(range(100), prepare, depth=3) as items:
        assert next(items) == 0
        await until(lambda: len(prepared) == 5)  # one taken, three that wait, one in hand
        assert next(items) == 1
    assert len(prepared) <= 6


def test_an_error_is_raised_where_its_item_would_have_come() -> None:
    def prepare(number: int) -> int:
        if number == 2:
            raise ValueError("the file is damaged")
        return number

    taken = []
    with Prefetch(range(5), prepare) as items, pytest.raises(ValueError, match="damaged"):
        taken.extend(items)
    assert taken == [0, 1]


def test_leaving_early_ends_the_thread() -> None:
    with Prefetch(range(10**9), lambda number: number) as items:
        assert next(items) == 0
    assert not [each for each in threading.enumerate() if each.name == "lepton-prefetch"]
