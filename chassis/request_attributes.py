"""What a request asks for, read from the fields that its method's rule names, for conditions of grants."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor

from chassis.conditions import Attributes
from chassis.method import Rule

_Step = tuple[str, bool]  # a field, and whether it holds many messages


def attributes_reader(rule: Rule, request_type: Descriptor | None) -> Callable[[Any], Attributes] | None:
    """What reads the attributes of a method's requests; None for methods whose rule names none.

    ValueError when a path leads nowhere: a server with such a rule must not start.
    """
    if request_type is None or not (rule.pools or rule.priority):
        return None
    pools, priority = (_steps(request_type, path) for path in (rule.pools, rule.priority))

    def read(request: Any) -> Attributes:
        lists = [tuple(each) for each in _leaves(request, pools)]
        # One that names none asks for any.
        named = sorted({pool for each in lists for pool in each}) if all(lists) else ()
        return Attributes(
            pools=tuple(named) if pools else None,
            priority=max(_leaves(request, priority), default=0) if priority else None,
        )

    return read


def _steps(message: Descriptor, path: str) -> tuple[_Step, ...]:
    steps: list[_Step] = []
    at: Descriptor | None = message
    for name in path.split(".") if path else ():
        field = at.fields_by_name.get(name) if at is not None else None
        if field is None:
            raise ValueError(f"a rule names {path}, which {message.full_name} does not have")
        steps.append((name, field.is_repeated))
        at = field.message_type
    return tuple(steps)


def _leaves(message: Any, steps: Sequence[_Step]) -> Iterator[Any]:
    """The values that a path leads to; more than one where it leads through a repeated field."""
    if not steps:
        return
    (name, is_repeated), rest = steps[0], steps[1:]
    value = getattr(message, name)
    if not rest:
        yield value
    elif is_repeated:
        for each in value:
            yield from _leaves(each, rest)
    else:
        yield from _leaves(value, rest)
