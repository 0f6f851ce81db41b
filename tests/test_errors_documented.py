"""Every reason that the sources raise has a text that tells what to do, and a line in docs/errors.md."""

import re

import pytest

from deploy.error_reference import PAGE, has_text, page, used
from lepton import reasons

USED = used()


@pytest.mark.parametrize("reason", sorted(USED))
def test_a_reason_is_well_formed_and_told(reason: str) -> None:
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{1,62}", reason)
    assert has_text(reason), f"add {reason} to sdk/lepton/reasons.py"


@pytest.mark.parametrize("reason", sorted(USED))
def test_a_reason_has_a_line(reason: str) -> None:
    assert f"| `{reason}` |" in PAGE.read_text(), "run `python -m deploy.error_reference`"


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "run `python -m deploy.error_reference`"


@pytest.mark.parametrize("text", reasons.TEXTS.values())
def test_a_text_is_a_sentence_that_fits_one_line(text: str) -> None:
    assert text.endswith(".")
    assert len(text) <= 160


def test_a_text_without_its_facts_still_reads() -> None:
    assert reasons.text("PEER_DENIED", {}) == "The service <peer> may not call this method."
