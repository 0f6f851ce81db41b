"""AIP-160 filters: what they mean, what they refuse, and that no text makes the parser fail in another way."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.filtering import Fields, Kind, parse
from lepton.errors import InvalidArgument

FIELDS: Fields = {
    "name": Kind.TEXT,
    "description": Kind.TEXT,
    "stage": Kind.WORD,
    "labels": Kind.TEXT_MAP,
    "metrics": Kind.NUMBER_MAP,
    "ancestry": Kind.LIST,
    "size_bytes": Kind.NUMBER,
    "quarantined": Kind.FLAG,
    "create_time": Kind.TIME,
    "lineage.job": Kind.WORD,
}
VALUES: dict[str, Any] = {
    "name": "digits",
    "description": "Hand-written digits",
    "stage": "PRODUCTION",
    "labels": {"team": "vision", "host": "db:5432"},
    "metrics": {"accuracy": 0.97, "loss": -1.5},
    "ancestry": ["sha256:aa", "projects/p/jobs/j"],
    "size_bytes": 1000,
    "quarantined": False,
    "create_time": datetime(2026, 3, 1, 12, tzinfo=UTC),
    "lineage.job": "projects/p/jobs/j",
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "stage = PRODUCTION",
        'stage = "PRODUCTION"',
        "stage=PRODUCTION",
        "stage != STAGING",
        "stage = PROD*",
        "stage = *TION",
        "stage = *DUCT*",
        "metrics.accuracy > 0.9",
        "metrics.accuracy>=0.97",
        "metrics.loss < -1",
        "metrics.loss = -1.5",
        "metrics:accuracy",
        "metrics.accuracy:*",
        "labels.team = vision",
        "labels:team",
        "labels.host = db:5432",
        'labels.host = "db:5432"',
        "NOT quarantined = true",
        "quarantined = false",
        "-quarantined = true",
        "NOT labels.owner:*",
        "-labels:owner",
        "size_bytes <= 1000",
        "size_bytes > 1e2",
        "create_time > 2026-01-31",
        "create_time < 2026-03-01T12:00:01Z",
        'create_time = "2026-03-01T12:00:00+00:00"',
        "ancestry:sha256:aa",
        'ancestry:"projects/p/jobs/j"',
        "lineage.job = projects/p/jobs/j",
        "hand",
        '"written digits"',
        "digits hand",
        "nothing OR digits",
        "stage = STAGING OR stage = PRODUCTION AND metrics.accuracy > 0.9",
        "(stage = STAGING AND metrics.accuracy > 2) OR name = digits",
        "NOT (stage = STAGING OR name = x)",
        "description:WRITTEN",
        "metrics.accuracy > 0.5 metrics.loss < 0",
    ],
)
def test_these_select_it(text: str) -> None:
    assert parse(text, FIELDS)(VALUES)


@pytest.mark.parametrize(
    "text",
    [
        "stage = STAGING",
        "stage != PRODUCTION",
        "metrics.accuracy > 0.97",
        "metrics.recall > 0",
        "metrics.recall != 0",
        "labels.owner:*",
        "labels.owner = x",
        "labels:owner",
        "quarantined = true",
        "create_time > 2026-03-02",
        "ancestry:sha256:bb",
        "ancestry:sha256",
        "absent",
        "digits absent",
        "stage = PRODUCTION OR stage = STAGING AND metrics.accuracy > 2",  # OR binds tighter than AND
        "NOT name = digits",
        "stage = PROD",
    ],
)
def test_these_do_not(text: str) -> None:
    assert not parse(text, FIELDS)(VALUES)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("stag = X", "no field 'stag'"),
        ("metrics > 1", "is a map"),
        ("stage > A", "no order"),
        ("metrics.accuracy > high", "a number"),
        ("quarantined = maybe", "true or false"),
        ("create_time > monday", "a time"),
        ("stage =", "more is expected"),
        ("= X", "is not expected"),
        ("(stage = X", "more is expected"),
        ("stage = X)", "is not expected"),
        ("AND stage = X", "is not expected"),
        ("stage = X AND", "more is expected"),
        ("name.first = x", "no field"),
        ("ancestry > x", "is a list"),
        ('"unclosed', "not understood"),
        ("a, b", "not understood"),
        ("(" * 40 + "name:x" + ")" * 40, "deep"),
        (" ".join(["name:x"] * 300), "terms"),
        ('"name" = x', "not the text"),
    ],
)
def test_these_are_refused_with_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(text, FIELDS)
    assert refused.value.reason == "FILTER_INVALID"
    assert problem in refused.value.fields["filter"]


_PIECES = st.sampled_from(
    [
        *FIELDS,
        "AND",
        "OR",
        "NOT",
        "-",
        "(",
        ")",
        "=",
        "!=",
        "<",
        ">=",
        ":",
        "*",
        '"',
        "'",
        "\\",
        " ",
        ".",
        "1",
        "é",
        "\0",
    ]
)


@settings(deadline=None)
@given(st.one_of(st.lists(_PIECES, max_size=30).map("".join), st.lists(_PIECES, max_size=30).map(" ".join), st.text()))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        accepts = parse(text, FIELDS)
    except InvalidArgument as error:
        assert error.reason == "FILTER_INVALID"  # noqa: PT017 (either outcome is right)
        return
    assert accepts(VALUES) in (True, False)
    assert accepts({}) in (True, False)


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_compare_as_numbers(value: float, bound: float) -> None:
    assert parse(f"metrics.m > {bound!r}", FIELDS)({"metrics": {"m": value}}) == (value > bound)
    assert parse(f"metrics.m <= {bound!r}", FIELDS)({"metrics": {"m": value}}) == (value <= bound)
