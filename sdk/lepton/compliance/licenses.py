"""SPDX licence expressions, and whether a list of licences allows them.

The grammar is that of annex D of SPDX 2.3; ids are checked and spelled canonically by `packaging.licenses`.
"""

from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Final

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

_MOST: Final = 512  # characters: nobody's licence is longer


def canonical(expression: str) -> str:
    """The expression as SPDX spells it. Raises ValueError when it is none."""
    if len(expression) > _MOST:
        raise ValueError(f"is longer than {_MOST} characters")
    try:
        return str(canonicalize_license_expression(expression))
    except InvalidLicenseExpression as error:
        raise ValueError(str(error)) from None


@lru_cache(maxsize=1024)
def allows(allowed: frozenset[str], expression: str) -> bool:
    """Whether one may choose so that only allowed licences are left: of OR one side will do, of AND both must.

    An exception (WITH) only adds to what a licence permits. What is no expression is not allowed.
    """
    try:
        tokens = _tokens(canonical(expression))
    except ValueError:
        return False
    value, rest = _either(tokens, allowed)
    return value and not rest


def _either(tokens: list[str], allowed: Collection[str]) -> tuple[bool, list[str]]:
    value, tokens = _both(tokens, allowed)
    while tokens[:1] == ["OR"]:
        other, tokens = _both(tokens[1:], allowed)
        value = value or other
    return value, tokens


def _both(tokens: list[str], allowed: Collection[str]) -> tuple[bool, list[str]]:
    value, tokens = _one(tokens, allowed)
    while tokens[:1] == ["AND"]:
        other, tokens = _one(tokens[1:], allowed)
        value = value and other
    return value, tokens


def _one(tokens: list[str], allowed: Collection[str]) -> tuple[bool, list[str]]:
    if tokens[0] == "(":
        value, rest = _either(tokens[1:], allowed)
        return value, rest[1:]
    name, rest = tokens[0], tokens[1:]
    if rest[:1] == ["WITH"]:
        return name in allowed or f"{name} WITH {rest[1]}" in allowed, rest[2:]
    return name in allowed, rest


def _tokens(expression: str) -> list[str]:
    return list(_split(expression.replace("(", " ( ").replace(")", " ) ")))


def _split(text: str) -> Iterator[str]:
    return iter(text.split())
