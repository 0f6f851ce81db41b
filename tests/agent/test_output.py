"""Output cut into lines, and its tail."""

import asyncio

import pytest

from services.agent.cause import last_words
from services.agent.output import Tail, lines


async def read(*chunks: bytes) -> list[str]:
    pipe = asyncio.StreamReader()
    for chunk in chunks:
        pipe.feed_data(chunk)
    pipe.feed_eof()
    return [line async for line in lines(pipe)]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((b"a\nb\n",), ["a", "b"]),
        ((b"a\r\nb",), ["a", "b"]),
        ((b"hal", b"f\nwhole\n"), ["half", "whole"]),
        ((b"\n\n",), ["", ""]),
        ((b"\xff\0\n",), ["��"]),
        ((b"x" * 20000 + b"\ny\n",), ["x" * 8192, "x" * 8192, "x" * 3616, "y"]),
    ],
)
async def test_lines(chunks: tuple[bytes, ...], expected: list[str]) -> None:
    assert await read(*chunks) == expected


def test_the_tail_keeps_the_last_lines_within_a_messages_size() -> None:
    tail = Tail()
    for number in range(100):
        tail.add(f"line {number}", is_stderr=False)
    assert tail.lines()[-1] == "line 99"
    assert len(tail.lines()) == 40
    for _ in range(5):
        tail.add("x" * 8000, is_stderr=False)
    assert len(tail.lines()) == 1


def test_the_last_words_are_those_of_standard_error() -> None:
    tail = Tail()
    tail.add("ValueError: no", is_stderr=True)
    tail.add("", is_stderr=True)
    tail.add("cleaning up", is_stderr=False)
    assert last_words(tail.by_weight()) == "ValueError: no"
    assert last_words(Tail().by_weight()) == ""
