"""google.api.field_behavior, compiled per message: what a request must carry, and what is only ever sent back."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from buf.validate import validate_pb2
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

    required: dict[int, str] = field(default_factory=dict)  # number -> name
    output_only: dict[int, str] = field(default_factory=dict)
    has_presence: bool = False  # of a required field: then its value does not say whether it is set
    nested: dict[int, "Nested"] = field(default_factory=dict)
    is_needed: bool = False  # by this message or by one in it
    plain: tuple[str, ...] | None = None  # the required fields, when looking at their values is all there is to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    """A field that holds messages with plans of their own."""

    name: str
    is_repeated: bool
    plan: Plan


@cache
def plan_of(message: Descriptor) -> Plan:
    """The plan of a message and of the messages in it."""
    plans: dict[str, Plan] = {}
    plan = _plan(message, plans)
    changed = True
    while changed:  # until what nested messages need has reached every message around them
        changed = False
        for each in plans.values():
            is_needed = bool(each.required or each.output_only) or any(
                inner.plan.is_needed for inner in each.nested.values()
            )
            changed |= is_needed != each.is_needed
            each.is_needed = is_needed
    for each in plans.values():
        each.nested = {number: inner for number, inner in each.nested.items() if inner.plan.is_needed}
        if not each.nested and not each.output_only and not each.has_presence:
            each.plain = tuple(each.required.values())
    return plan


def apply(plan: Plan, message: Any, *, clears: bool, path: str = "") -> dict[str, str]:
    """Clear the output-only fields when told to; the paths of the required fields that are not set."""
    missing: dict[str, str] = {}
    if plan.plain is not None:
        for name in plan.plain:
            if not getattr(message, name):
                missing[path + name] = "is required"
        return missing
    unseen = len(plan.required)
    present = message.ListFields()
    for descriptor, value in present:
        number = descriptor.number
        if number in plan.required:
            unseen -= 1
        if clears and number in plan.output_only:
            message.ClearField(plan.output_only[number])
            continue
        nested = plan.nested.get(number)
        if nested is None:
            continue
        if nested.is_repeated:
            for index, item in enumerate(value):
                missing |= apply(nested.plan, item, clears=clears, path=f"{path}{nested.name}[{index}].")
        else:
            missing |= apply(nested.plan, value, clears=clears, path=f"{path}{nested.name}.")
    if unseen:
        seen = {descriptor.number for descriptor, _ in present}
        absent = {path + name: "is required" for number, name in plan.required.items() if number not in seen}
        missing = absent | missing
    return missing


def _plan(message: Descriptor, plans: dict[str, Plan], *, is_partial: bool = False) -> Plan:
    key = f"{message.full_name} in part" if is_partial else message.full_name
    known = plans.get(key)
    if known is not None:
        return known
    plan = plans[key] = Plan()
    is_update = "update_mask" in message.fields_by_name  # of its resource only what changes need be there
    for each in message.fields:
        options: Any = each.GetOptions()
        behaviours = options.Extensions[field_behavior_pb2.field_behavior]
        if field_behavior_pb2.OUTPUT_ONLY in behaviours:
            if not (is_partial and each.name == "etag"):  # there it says what the caller has read
                plan.output_only[each.number] = each.name
            continue
        is_required = field_behavior_pb2.REQUIRED in behaviours and field_behavior_pb2.IDENTIFIER not in behaviours
        # Without presence, a zero cannot be told from a number that was left out.
        if is_required and not is_partial and (each.has_presence or each.is_repeated or each.cpp_type not in _NUMBERS):
            plan.required[each.number] = each.name
            plan.has_presence |= each.has_presence
        inner = each.message_type
        if inner is not None and not inner.GetOptions().map_entry and not _stand_alone(options):
            nested = _plan(inner, plans, is_partial=is_update)
            plan.nested[each.number] = Nested(name=each.name, is_repeated=each.is_repeated, plan=nested)
    return plan


def _stand_alone(options: Any) -> bool:
    """Whether the servicer checks a field's items one by one, so that one that is wrong spoils no other."""
    rules = options.Extensions[validate_pb2.field]
    return bool(rules.repeated.items.ignore == validate_pb2.IGNORE_ALWAYS)
