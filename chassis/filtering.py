"""Filters of list requests in the language of AIP-160: checked against the fields of a resource, then asked of each.

    stage = PRODUCTION AND (metrics.accuracy >= 0.9 OR tags.owner = "vision") AND -labels.team:*

Grammar: https://google.aip.dev/assets/misc/ebnf-filtering.txt, without functions. OR binds tighter than AND; terms side
by side are joined by AND. A field that a resource lacks satisfies no comparison.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, Final

from lepton.errors import InvalidArgument

Values = Mapping[str, Any]
Filter = Callable[[Values], bool]


class Kind(Enum):
    """What a field holds; the values of maps are of the kind that is named."""

    TEXT = auto()
    NUMBER = auto()
    FLAG = auto()
    TIME = auto()
    """A `datetime`; given as RFC 3339 in filters."""
    WORD = auto()
    """One of a set of words, an enum's value."""
    LIST = auto()
    """Of texts."""
    TEXT_MAP = auto()
    NUMBER_MAP = auto()


Fields = Mapping[str, Kind]

_MAPS: Final = {Kind.TEXT_MAP: Kind.TEXT, Kind.NUMBER_MAP: Kind.NUMBER}
_ORDERED: Final = frozenset({Kind.NUMBER, Kind.TIME, Kind.TEXT})
_DEPTH: Final = 32
_TERMS: Final = 200
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<op><=|>=|!=|=|<|>|:)|(?P<paren>[()])|(?P<minus>-(?=[^\s\d.]))"""
    r"""|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<word>[^\s()<>=!:"',]+))"""
)


def parse(text: str, fields: Fields) -> Filter:
    """What the filter says of a resource's values; an empty filter says yes. Raises InvalidArgument (FILTER_INVALID).

    A bare word or text is looked for in all TEXT fields, whatever its case.
    """
    tokens = list(_tokens(text))
    if not tokens:
        return lambda _values: True
    parser = _Parser(tokens, fields)
    found = parser.expression(0)
    parser.end()
    return found


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise _invalid(f"what stands at character {at + 1} is not understood")
        kind = str(match.lastgroup)
        found = match.group(kind)
        if kind == "text":
            found = re.sub(r"\\(.)", r"\1", found[1:-1])
        yield _Token(kind, found, match.start(kind))
        at = match.end()


class _Parser:
    def __init__(self, tokens: list[_Token], fields: Fields) -> None:
        self._tokens, self._fields = tokens, fields
        self._at = self._terms = 0

    def end(self) -> None:
        if (token := self._peek()) is not None:
            raise _invalid(f"{token.text!r} at character {token.at + 1} is not expected")

    def expression(self, depth: int) -> Filter:
        """Factors joined by AND, written or not."""
        if depth > _DEPTH:
            raise _invalid(f"its parentheses are more than {_DEPTH} deep")
        parts = [self._factor(depth)]
        while (token := self._peek()) is not None and token.text != ")":
            if token.kind == "word" and token.text == "AND":
                self._next()
            parts.append(self._factor(depth))
        return parts[0] if len(parts) == 1 else lambda values: all(part(values) for part in parts)

    def _factor(self, depth: int) -> Filter:
        parts = [self._term(depth)]
        while (token := self._peek()) is not None and token.kind == "word" and token.text == "OR":
            self._next()
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else lambda values: any(part(values) for part in parts)

    def _term(self, depth: int) -> Filter:
        self._terms += 1
        if self._terms > _TERMS:
            raise _invalid(f"it has more than {_TERMS} terms")
        token = self._peek()
        if token is not None and (token.kind == "minus" or (token.kind == "word" and token.text == "NOT")):
            self._next()
            negated = self._simple(depth)
            return lambda values: not negated(values)
        return self._simple(depth)

    def _simple(self, depth: int) -> Filter:
        token = self._next()
        if token.text == "(" and token.kind == "paren":
            found = self.expression(depth + 1)
            closing = self._next()
            if closing.kind != "paren" or closing.text != ")":
                raise _invalid(f"a ) is missing at character {closing.at + 1}")
            return found
        if token.kind not in ("word", "text") or (token.text in ("AND", "OR", "NOT") and token.kind == "word"):
            raise _invalid(f"{token.text!r} at character {token.at + 1} is not expected")
        following = self._peek()
        if following is None or following.kind != "op":
            return self._anywhere(token.text)
        if token.kind == "text":
            raise _invalid(f"a field stands left of {following.text!r}, not the text {token.text!r}")
        operator = self._next().text
        argument = self._next()
        if argument.kind not in ("word", "text"):
            raise _invalid(f"a value is missing at character {argument.at + 1}")
        # AIP-160 writes times and host:port without quotes; the tokens of one are joined again.
        text = argument.text
        while argument.kind == "word" and (more := self._peek()) is not None and self._continues(text, more):
            text += self._next().text
        return self._restriction(token.text, operator, text)

    def _continues(self, text: str, token: _Token) -> bool:
        before = self._tokens[self._at - 1]
        return token.at == before.at + len(before.text) and (token.text == ":" or text.endswith(":"))

    def _anywhere(self, wanted: str) -> Filter:
        names = [name for name, kind in self._fields.items() if kind is Kind.TEXT]
        needle = wanted.casefold()
        return lambda values: any(needle in str(values.get(name) or "").casefold() for name in names)

    def _restriction(self, path: str, operator: str, argument: str) -> Filter:
        name, _, key = path.partition(".")
        kind = self._fields.get(path) or self._fields.get(name)
        if kind is None or (key and path not in self._fields and kind not in _MAPS):
            raise _invalid(f"there is no field {path!r}; there are {', '.join(sorted(self._fields))}")
        if path in self._fields:
            name, key = path, ""
        if kind in _MAPS and not key:
            if operator != ":":
                raise _invalid(f"{path} is a map: compare {path}.KEY, or ask {path}:KEY")
            return lambda values: argument in (values.get(name) or {}) or (argument == "*" and bool(values.get(name)))
        if key:
            kind = _MAPS[kind]

        def read(values: Values) -> Any:
            value = values.get(name)
            return value.get(key) if key and value is not None else value

        if operator == ":" and argument == "*":
            return lambda values: read(values) not in (None, "", [], ())
        return _compared(path, kind, operator, argument, read)

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> _Token:
        if self._at >= len(self._tokens):
            raise _invalid("it ends where more is expected")
        self._at += 1
        return self._tokens[self._at - 1]


def _compared(path: str, kind: Kind, operator: str, argument: str, read: Callable[[Values], Any]) -> Filter:
    if kind is Kind.LIST:
        if operator not in (":", "="):
            raise _invalid(f"{path} is a list: ask {path}:{argument}")
        return lambda values: argument in (read(values) or ())
    if operator in ("=", "!=", ":") and kind in (Kind.TEXT, Kind.WORD):
        matches = _matcher(argument, is_within=operator == ":" and kind is Kind.TEXT)
        if operator == "!=":
            return lambda values: (value := read(values)) is not None and not matches(str(value))
        return lambda values: (value := read(values)) is not None and matches(str(value))
    if kind not in _ORDERED and operator not in ("=", "!=", ":"):
        raise _invalid(f"{path} has no order, so {operator} says nothing of it")
    wanted = _argument(path, kind, argument)
    compare = _OPERATORS[operator]
    return lambda values: (value := read(values)) is not None and compare(value, wanted)


_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": lambda value, wanted: value == wanted,
    ":": lambda value, wanted: value == wanted,
    "!=": lambda value, wanted: value != wanted,
    "<": lambda value, wanted: value < wanted,
    "<=": lambda value, wanted: value <= wanted,
    ">": lambda value, wanted: value > wanted,
    ">=": lambda value, wanted: value >= wanted,
}


def _matcher(wanted: str, *, is_within: bool) -> Callable[[str], bool]:
    """Equality, in which a * at either end stands for anything."""
    if is_within:
        needle = wanted.strip("*").casefold()
        return lambda value: needle in value.casefold()
    starts, ends = wanted.endswith("*"), wanted.startswith("*")
    core = wanted.removeprefix("*").removesuffix("*") if starts or ends else wanted
    if starts and ends:
        return lambda value: core in value
    if starts:
        return lambda value: value.startswith(core)
    if ends:
        return lambda value: value.endswith(core)
    return lambda value: value == wanted


def _argument(path: str, kind: Kind, text: str) -> Any:
    try:
        if kind is Kind.NUMBER:
            return float(text)
        if kind is Kind.TIME:
            found = datetime.fromisoformat(text)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError as error:
        word = "a number" if kind is Kind.NUMBER else "a time such as 2026-01-31T12:00:00Z"
        raise _invalid(f"{path} is compared with {word}, not with {text!r}") from error
    if kind is Kind.FLAG:
        if text not in ("true", "false"):
            raise _invalid(f"{path} is true or false, not {text!r}")
        return text == "true"
    return text


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument("FILTER_INVALID", fields={"filter": problem}, problem=problem)
