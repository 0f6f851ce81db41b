"""A cheap proof that a message breaks no rule: simple rules in Python; what it cannot prove is for protovalidate.

Calling protovalidate costs a tenth of a small call; most requests are a name and a few numbers.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

Proof = Callable[[Any], bool]
_NUMBERS: Final = ("int32", "int64", "uint32", "uint64", "float", "double")
_BOUNDS: Final[dict[str, Callable[[Any], Proof]]] = {
    "gte": lambda bound: lambda value: bool(value >= bound),
    "gt": lambda bound: lambda value: bool(value > bound),
    "lte": lambda bound: lambda value: bool(value <= bound),
    "lt": lambda bound: lambda value: bool(value < bound),
}
_UUID: Final = re.compile("[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
# Patterns on which Python's engine and RE2 agree: anchored, without alternatives at the top and without escapes.
_PLAIN_PATTERN: Final = re.compile(r"\^((?:[A-Za-z0-9/_@:,.?*+(){}-]|\[[A-Za-z0-9/_@:.-]+\])*)\$")
_TEXT: Final[dict[str, Callable[[Any], Proof | None]]] = {
    "min_len": lambda bound: lambda value: len(value) >= bound,
    "max_len": lambda bound: lambda value: len(value) <= bound,
    "uuid": lambda wanted: (lambda value: _UUID.fullmatch(value) is not None) if wanted else None,
    "pattern": lambda pattern: _pattern(pattern),
}


def proof_of(message: Descriptor) -> Proof | None:
    """A function that is true only of messages without violations; None when the rules are beyond it."""
    if message.GetOptions().HasExtension(validate_pb2.message):
        return None
    values: list[tuple[str, Proof]] = []
    submessages: list[str] = []
    for field in message.fields:
        if field.containing_oneof is not None and field.containing_oneof.GetOptions().ListFields():
            return None
        options: Any = field.GetOptions()
        if field.message_type is not None and not field.is_repeated:
            if options.HasExtension(validate_pb2.field):
                return None
            submessages.append(field.name)
            continue
        checks = _of_field(field, options)
        if checks is None:
            return None
        values.extend((field.name, check) for check in checks)
    return _all(tuple(values), tuple(submessages))


def _all(values: tuple[tuple[str, Proof], ...], submessages: tuple[str, ...]) -> Proof:
    def holds(message: Any) -> bool:
        for name, check in values:
            if not check(getattr(message, name)):
                return False
        for name in submessages:  # noqa: SIM110 - a generator costs more than the checks
            if message.HasField(name):
                return False  # what it holds is for protovalidate
        return True

    return holds


def _of_field(field: FieldDescriptor, options: Any) -> list[Proof] | None:
    """What must be true of the field's value; None when that cannot be said."""
    if field.message_type is not None:  # a list or a map: what it holds is for protovalidate
        return [lambda values: not values] if _may_be_empty(options) else None
    if not options.HasExtension(validate_pb2.field):
        return []
    if field.is_repeated or field.has_presence:
        return None
    rules = options.Extensions[validate_pb2.field]
    may_be_zero, checks = False, list[Proof]()
    for kind, value in rules.ListFields():
        if kind.name == "ignore":
            if value != validate_pb2.IGNORE_IF_ZERO_VALUE:
                return None
            may_be_zero = True
            continue
        known: Any = _TEXT if kind.name == "string" else _BOUNDS if kind.name in _NUMBERS else {}
        for rule, bound in value.ListFields() if hasattr(value, "ListFields") else [(kind, None)]:
            check = known[rule.name](bound) if rule.name in known else None
            if check is None:
                return None
            checks.append(check)
    return [_or_zero(check) for check in checks] if may_be_zero else checks


def _may_be_empty(options: Any) -> bool:
    """Whether a list or a map without anything in it breaks no rule."""
    rules: Any = options.Extensions[validate_pb2.field]
    return not (rules.required or rules.cel or rules.cel_expression or rules.repeated.min_items or rules.map.min_pairs)


def _or_zero(check: Proof) -> Proof:
    return lambda value: not value or check(value)


def _pattern(pattern: str) -> Proof | None:
    plain = _PLAIN_PATTERN.fullmatch(pattern)
    if plain is None:
        return None
    matches = re.compile(plain[1], re.ASCII).fullmatch
    return lambda value: matches(value) is not None
