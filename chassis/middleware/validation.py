"""Validation: protovalidate's rules and REQUIRED fields are checked and output-only fields cleared."""

from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from protovalidate import Validator

from chassis.adapter import Malformed
from chassis.call import Call
from chassis.field_behaviour import Plan, clear_output_only, missing_required, plan_of
from chassis.method import Method
from chassis.middleware import Receive, Steps
from lepton.errors import InvalidArgument

_RULES: Final = "buf/validate/validate.proto"
_MAX_VIOLATIONS: Final = 20


class Validation:
    """Checks requests by what their protos say."""

    def __init__(self) -> None:
        self._validator = Validator()

    def bind(self, method: Method) -> Steps:
        """Compiles what has to be looked at; a message without rules is only checked for having been decoded."""
        if method.request_type is None or method.is_infrastructure:
            return Steps(receive=_decoded)
        plan = plan_of(method.request_type)
        internal = method.service.startswith("lepton.internal.")
        return Steps(receive=self._check(plan, has_rules=_has_rules(method.request_type), clears=not internal))

    def _check(self, plan: Plan, *, has_rules: bool, clears: bool) -> Receive:
        collect = self._validator.collect_violations
        has_output_only, has_required = clears and plan.has_output_only, plan.has_required

        def receive(_call: Call, request: Any) -> None:
            if type(request) is Malformed:
                raise request.error()
            if has_output_only:
                clear_output_only(plan, request)
            fields = missing_required(plan, request) if has_required else {}
            if has_rules:
                for violation in collect(request):
                    fields.setdefault(_path(violation.proto.field), violation.proto.message or violation.proto.rule_id)
            if fields:
                raise InvalidArgument("INVALID_FIELD", fields=dict(list(fields.items())[:_MAX_VIOLATIONS]))

        return receive


def _decoded(_call: Call, request: Any) -> None:
    if type(request) is Malformed:
        raise request.error()


def _path(field: Any) -> str:
    """The dotted path of a violation, as a client would write it: `job.groups[2].name`."""
    path = ""
    for element in field.elements if field is not None else ():
        path += ("." if path else "") + element.field_name
        kind, value = _subscript(element)
        if kind:
            path += f"[{value}]"
    return path or "request"


def _has_rules(message: Descriptor) -> bool:
    seen: set[str] = set()
    todo = [message]
    while todo:
        current = todo.pop()
        if current.full_name in seen:
            continue
        seen.add(current.full_name)
        if any(file.name == _RULES for file in current.file.dependencies):
            return True
        todo.extend(field.message_type for field in current.fields if field.message_type is not None)
    return False


def _subscript(element: Any) -> tuple[str, Any]:
    subscript = getattr(element, "subscript", None)
    if subscript is None:
        return "", None
    return "index", getattr(subscript, "value", subscript)
