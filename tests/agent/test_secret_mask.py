"""Known secrets are taken out of text, however the text is cut; and nothing else is."""

import asyncio
import base64
import json
import random
import urllib.parse

import pytest

from services.agent.output import lines
from services.agent.secret_mask import NOTHING, Mask

SECRET = 'pa55 w/ord+ü"&'
PEM = "-----BEGIN X-----\nMIIabcdefgh0123\nshort\nZZZZyyyyxxxx9876\n-----END X-----\n"
ENCODINGS = {
    "plain": lambda text: text,
    "base64": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "base64url": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "quoted": lambda text: urllib.parse.quote(text, safe=""),
    "json": lambda text: json.dumps(text)[1:-1],
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_value_is_found_in_every_encoding(encoding: str) -> None:
    told = f"before {ENCODINGS[encoding](SECRET)} after"
    assert Mask([SECRET.encode()]).text(told) == "before *** after"
    assert NOTHING.text(told) == told  # the control
    assert Mask([b"another"]).text(told) == told


def test_the_longer_lines_of_a_value_are_found_by_themselves() -> None:
    mask = Mask([PEM.encode()])
    assert mask.text("see ZZZZyyyyxxxx9876!") == "see ***!"
    assert mask.text("MIIabcdefgh0123") == "***"
    assert mask.text("short") == "short"


def test_what_is_too_short_is_left_alone() -> None:
    assert Mask([b"abc", b"", b" \n"]).text("abcabc") == "abcabc"
    assert not Mask([b"abc", b""])


def test_the_longer_of_two_is_taken_out_whole() -> None:
    assert Mask([b"secret", b"secret-and-more"]).text("a secret-and-more, a secret") == "a ***, a ***"


def test_a_document_is_masked_in_its_names_and_values() -> None:
    mask = Mask([b"s3cret"])
    given = {"kind": "metrics", "values": {"s3cret": 1.0, "a": ["x s3cret", 2, None]}}
    assert mask.document(given) == {"kind": "metrics", "values": {"***": 1.0, "a": ["x ***", 2, None]}}
    assert NOTHING.document(given) is given


@pytest.mark.parametrize("length", range(4, 12))
def test_a_text_that_was_cut_has_no_part_of_a_value(length: int) -> None:
    value = "0123456789ab"
    mask = Mask([value.encode()])
    assert mask.cut(f"words {value[:length]}") == "words ***"
    assert mask.cut(f"{value[-length:]} words") == "*** words"
    assert mask.cut("words") == "words"


async def printed(data: bytes, mask: Mask, seed: int) -> str:
    """What is heard of a program that writes this, in parts of random size."""
    pipe, parts = asyncio.StreamReader(), random.Random(seed)
    while data:
        size = parts.choice((1, 7, 4000, 9000, 70_000))
        pipe.feed_data(data[:size])
        data = data[size:]
    pipe.feed_eof()
    return "\n".join([line async for line in lines(pipe, mask)])


@pytest.mark.parametrize("seed", range(12))
async def test_no_value_is_heard_wherever_the_output_is_cut(seed: int) -> None:
    choose = random.Random(seed)
    value = "".join(choose.choices("abcdef0123456789", k=choose.choice((8, 40, 3000))))
    filler = ["x" * choose.randrange(20_000) + choose.choice(("", "\n", " ")) for _ in range(30)]
    data = "".join(text + value for text in filler).encode()
    print(f"seed {seed}, value of {len(value)}, output of {len(data)}")
    heard = await printed(data, Mask([value.encode()]), seed)
    joined = heard.replace("\n", "")
    assert value not in joined
    assert joined.count("***") == 30
    assert len(joined) == sum(len(text.replace("\n", "")) for text in filler) + 3 * 30
    control = (await printed(data, NOTHING, seed)).replace("\n", "")
    assert control.count(value) == 30


async def test_without_a_mask_long_lines_are_cut_as_before() -> None:
    heard = (await printed(b"a" * 20_000 + b"\nb", NOTHING, 1)).split("\n")
    assert "".join(heard) == "a" * 20_000 + "b"
    assert max(map(len, heard)) <= 8 << 10
