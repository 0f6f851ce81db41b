"""Random bytes for every parser of what comes from outside: it takes them, or says what is wrong with them."""

from typing import Final

import pytest

from lepton.errors import InvalidArgument
from tests.fuzz import test_rpcs
from tests.fuzz.parsers import Parser, broken, parsers

DEFAULT: Final = 9_000
SLOW: Final = 420_000
_SEED: Final = 20_261_122


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
async def test_any_bytes_are_read_or_refused() -> None:
    print(f"seed {_SEED}")
    found = await broken(DEFAULT, _SEED)
    assert not found, "\n".join(map(str, found))


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_any_of_hundreds_of_thousands_are() -> None:
    first = test_rpcs.first_seed()
    for seed in range(first, first + 6):
        print(f"seed {seed}")
        found = await broken(SLOW // 6, seed)
        assert not found, "\n".join(map(str, found))


def test_the_inputs_are_as_many_as_promised() -> None:
    """20,000 in `make test`, 1,000,000 in `make test-all`; requests and what parsers read."""
    assert sum(test_rpcs.DEFAULT.values()) + DEFAULT >= 20_000
    assert sum(test_rpcs.SLOW.values()) + SLOW >= 1_000_000


def test_each_parser_takes_one_of_its_samples_at_least() -> None:
    """Otherwise what is made of them does not get past the door."""
    refused = []
    for parser in parsers():
        taken = 0
        for sample in parser.samples:
            try:
                parser.run(sample)
            except parser.refuses:
                continue
            taken += 1
        if not taken:
            refused.append(parser.name)
    # These ask for more than a small sample has: tensors of a kind, the program of an archive.
    assert set(refused) <= {"dataset", "PyTorch archive"}


async def test_a_parser_that_lets_its_own_errors_out_is_caught() -> None:
    """The control."""

    def careless(data: bytes) -> object:
        return data.decode().partition("=")[2][0]

    found = await broken(2_000, _SEED, [Parser("careless", careless, (InvalidArgument,), [b"a=b"])])
    assert {type(each.error) for each in found} == {UnicodeDecodeError, IndexError}
