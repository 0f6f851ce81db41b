"""The memory of what training changes: found, joined, and never altered by what the kernel is asked to do with it."""

from itertools import pairwise

import hypothesis.strategies as st
import torch
from hypothesis import given

from lepton.train.checkpoints.memory import holding
from lepton.train.checkpoints.pages import Changes, joined, make_huge, make_own


def test_only_large_tensors_that_changed_since_the_last_checkpoint_count() -> None:
    tensors = {name: torch.zeros(1_000_000) for name in ("trained", "frozen")} | {"small": torch.zeros(10)}
    changes = Changes()
    holdings = {name: holding(name, tensor) for name, tensor in tensors.items()}
    assert changes.since_last(holdings) == []
    for name in ("trained", "small"):
        tensors[name].add_(1)
    begin = tensors["trained"].data_ptr()
    assert changes.since_last(holdings) == [(begin, begin + tensors["trained"].nbytes)]
    assert changes.since_last(holdings) == []


def test_contents_stay_as_they_are() -> None:
    tensor = torch.arange(3_000_000.0)
    span = (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
    make_own([span])
    make_huge([span])
    assert torch.equal(tensor, torch.arange(3_000_000.0))


def test_memory_that_is_gone_is_left_alone() -> None:
    make_own([(1 << 46, (1 << 46) + (8 << 20))])
    make_huge([(1 << 46, (1 << 46) + (8 << 20))])


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**5)), max_size=20))
def test_joined_spans_cover_the_same_and_are_apart(given_spans: list[tuple[int, int]]) -> None:
    spans = [(begin, begin + size) for begin, size in given_spans]
    found = joined(spans)
    assert all(any(one <= begin and end <= other for one, other in found) for begin, end in spans)
    assert all(first[1] < second[0] for first, second in pairwise(found))
