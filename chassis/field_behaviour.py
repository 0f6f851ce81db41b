"""google.api.field_behavior, compiled per message: what a request must carry, and what is only ever sent back."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

_NUMBERS: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
        FieldDescriptor.CPPTYPE_DOUBLE,
        FieldDescriptor.CPPTYPE_FLOAT,
        FieldDescriptor.CPPTYPE_BOOL,
    }
)


@dataclass(slots=True, kw_only=True)
class Plan:
    """What to look at in one kind of message. Filled in after it is made, because messages may contain themselves."""

    required: list[FieldDescriptor] = field(default_factory=list)
    output_only: list[str] = field(default_factory=list)
    nested: list[tuple[FieldDescriptor, "Plan"]] = field(default_factory=list)
    has_required: bool = False
    has_output_only: bool = False


@cache
def plan_of(message: Descriptor) -> Plan:
    """The plan of a message and of the messages in it."""
    plans: dict[str, Plan] = {}
    plan = _plan(message, plans)
    changed = True
    while changed:  # until what nested messages need has reached every message around them
        changed = False
        for each in plans.values():
            needs = (
                bool(each.required) or any(inner.has_required for _, inner in each.nested),
                bool(each.output_only) or any(inner.has_output_only for _, inner in each.nested),
            )
            if needs != (each.has_required, each.has_output_only):
                each.has_required, each.has_output_only = needs
                changed = True
    for each in plans.values():
        each.nested = [(field, inner) for field, inner in each.nested if inner.has_required or inner.has_output_only]
    return plan


def _plan(message: Descriptor, plans: dict[str, Plan]) -> Plan:
    known = plans.get(message.full_name)
    if known is not None:
        return known
    plan = plans[message.full_name] = Plan()
    for each in message.fields:
        options: Any = each.GetOptions()
        behaviours = options.Extensions[field_behavior_pb2.field_behavior]
        if field_behavior_pb2.OUTPUT_ONLY in behaviours:
            plan.output_only.append(each.name)
            continue
        if field_behavior_pb2.REQUIRED in behaviours and field_behavior_pb2.IDENTIFIER not in behaviours:
            plan.required.append(each)
        inner = each.message_type
        if inner is not None and not inner.GetOptions().map_entry:
            plan.nested.append((each, _plan(inner, plans)))
    return plan


def missing_required(plan: Plan, message: Any, path: str = "") -> dict[str, str]:
    """The paths of required fields that are not set."""
    missing = {f"{path}{each.name}": "is required" for each in plan.required if not _is_set(each, message)}
    for each, inner in plan.nested:
        if inner.has_required:
            for suffix, value in _values(each, message):
                missing.update(missing_required(inner, value, f"{path}{each.name}{suffix}."))
    return missing


def clear_output_only(plan: Plan, message: Any) -> None:
    """Forget what only the server may say."""
    for name in plan.output_only:
        message.ClearField(name)
    for each, inner in plan.nested:
        if inner.has_output_only:
            for _, value in _values(each, message):
                clear_output_only(inner, value)


def _is_set(each: FieldDescriptor, message: Any) -> bool:
    if each.has_presence:
        return bool(message.HasField(each.name))
    if each.cpp_type in _NUMBERS and not each.is_repeated:
        return True  # without presence, a zero cannot be told from a number that was left out
    return bool(getattr(message, each.name))


def _values(each: FieldDescriptor, message: Any) -> Iterator[tuple[str, Any]]:
    if each.is_repeated:
        for index, value in enumerate(getattr(message, each.name)):
            yield f"[{index}]", value
    elif message.HasField(each.name):
        yield "", getattr(message, each.name)
