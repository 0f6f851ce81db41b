"""Times and durations of requests: those that protobuf's own limits exclude are named before a servicer meets them."""

from collections.abc import Callable, Iterable, MutableMapping
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

# https://protobuf.dev/reference/protobuf/google.protobuf: years 1 to 9999, and about as many years of a duration.
_TIME_S: Final = (-62_135_596_800, 253_402_300_799)
_DURATION_S: Final = (-315_576_000_000, 315_576_000_000)
_NANOS: Final = 1_000_000_000

Fields = MutableMapping[str, str]


def times_check(kind: Descriptor) -> Callable[[Any, Fields], None] | None:
    """Adds the paths of the times and durations in such a message that are none; None where it holds neither."""
    return (lambda message, fields: _check(message, "", fields)) if _relevant(kind) else None


def _check(message: Any, path: str, fields: Fields) -> None:
    for field, kind in _relevant(message.DESCRIPTOR):
        judge = _JUDGES.get(kind.full_name)
        for at, value in _values(message, field, kind):
            where = f"{path}{field.name}{at}"
            if judge is None:
                _check(value, f"{where}.", fields)
            elif problem := judge(value):
                fields.setdefault(where, problem)


@cache
def _relevant(kind: Descriptor) -> tuple[tuple[FieldDescriptor, Descriptor], ...]:
    """The fields that are times, or in which there may be some, with their kinds; as many as the protos have."""
    inner = ((field, field.message_type) for field in kind.fields)
    return tuple((field, found) for field, found in inner if found is not None and _holds(found, set()))


def _holds(kind: Descriptor, seen: set[str]) -> bool:
    if kind.full_name in _JUDGES:
        return True
    if kind.full_name in seen:
        return False
    seen.add(kind.full_name)
    return any(_holds(field.message_type, seen) for field in kind.fields if field.message_type is not None)


def _values(message: Any, field: FieldDescriptor, kind: Descriptor) -> Iterable[tuple[str, Any]]:
    if not field.is_repeated:
        return (("", getattr(message, field.name)),) if message.HasField(field.name) else ()
    found = getattr(message, field.name)
    if kind.GetOptions().map_entry:
        if kind.fields_by_name["value"].message_type is None:
            return ()
        return ((f"[{key}]", value) for key, value in found.items())
    return ((f"[{at}]", value) for at, value in enumerate(found))


def _time(value: Any) -> str:
    if _TIME_S[0] <= value.seconds <= _TIME_S[1] and 0 <= value.nanos < _NANOS:
        return ""
    return "is no time: seconds from year 1 to 9999, nanos from 0 to 999,999,999"


def _duration(value: Any) -> str:
    is_one_sided = value.seconds == 0 or value.nanos == 0 or (value.seconds < 0) == (value.nanos < 0)
    if _DURATION_S[0] <= value.seconds <= _DURATION_S[1] and -_NANOS < value.nanos < _NANOS and is_one_sided:
        return ""
    return "is no duration: at most 315,576,000,000 s, nanos below a second, both of one sign"


_JUDGES: Final[dict[str, Callable[[Any], str]]] = {
    "google.protobuf.Timestamp": _time,
    "google.protobuf.Duration": _duration,
}
