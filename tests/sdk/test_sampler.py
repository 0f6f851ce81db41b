"""The step-exact sampler: order and coverage do not depend on how many ranks there are or when they change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.errors import InvalidArgument
from lepton.train.sampler import Batch, StepSampler


def gang(count: int, batch_size: int, seed: int, world_size: int) -> list[StepSampler]:
    return [
        StepSampler(count=count, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]


def whole_order(count: int, batch_size: int, seed: int, epochs: int) -> list[int]:
    return [int(i) for batch in gang(count, batch_size, seed, 1)[0].batches(epochs=epochs) for i in batch.indices]


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 5),
    epochs=st.integers(1, 3),
    schedule=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), max_size=8),
)
def test_any_schedule_of_world_sizes_takes_the_samples_of_the_uninterrupted_run(
    count: int, batch_size: int, seed: int, epochs: int, schedule: list[tuple[int, int]]
) -> None:
    taken: list[int] = []
    steps: list[int] = []
    position = 0
    for world_size, most_steps in [*schedule, (2, 10**6)]:
        runs = [
            sampler.batches(epochs=epochs, position=position) for sampler in gang(count, batch_size, seed, world_size)
        ]
        for _, shares in zip(range(most_steps), zip(*runs, strict=True), strict=False):
            taken += [int(i) for share in shares for i in share.indices]
            steps.append(shares[0].step)
            position = shares[0].consumed
    assert taken == whole_order(count, batch_size, seed, epochs)
    assert steps == list(range(1, epochs * gang(count, batch_size, seed, 1)[0].steps_per_epoch + 1))
    for epoch in range(epochs):
        assert sorted(taken[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    order = whole_order(50, 8, 0, 2)
    assert order[:50] != order[50:]
    assert order[:50] != whole_order(50, 8, 1, 1)


def test_shares_are_even_and_say_where_they_lie_in_the_batch() -> None:
    batches = [next(iter(sampler.batches(epochs=1))) for sampler in gang(100, 10, 0, 4)]
    assert [(batch.start, batch.stop) for batch in batches] == [(0, 2), (2, 5), (5, 7), (7, 10)]
    assert all(batch.size == 10 for batch in batches)
    whole: Batch = next(iter(gang(100, 10, 0, 1)[0].batches(epochs=1)))
    assert np.array_equal(np.concatenate([batch.indices for batch in batches]), whole.indices)


def test_the_last_batch_of_an_epoch_is_small_and_marked() -> None:
    sizes = [(batch.size, batch.ends_epoch) for batch in gang(25, 10, 0, 1)[0].batches(epochs=1)]
    assert sizes == [(10, False), (10, False), (5, True)]


@pytest.mark.parametrize("wrong", [{"count": 0}, {"batch_size": 0}, {"rank": 2}, {"rank": -1}])
def test_an_impossible_division_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        StepSampler(**{"count": 10, "batch_size": 2, "seed": 0, "rank": 0, "world_size": 2, **wrong})
