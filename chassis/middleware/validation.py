"""Validation: protovalidate's rules and REQUIRED fields are checked and output-only fields cleared."""

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from protovalidate import Validator

from chassis.call import Call
from chassis.field_behaviour import apply, plan_of
from chassis.message_limits import Malformed
from chassis.method import Method
from chassis.middleware import Receive, Steps
from chassis.quick_check import proof_of
from chassis.times import times_check
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
        internal = method.service.startswith("lepton.internal.")
        check = _received(self.check_of(method.request_type, clears=not internal))
        return Steps(receive=_skipping(method.request_type, check) if method.streams_requests else check)

    def check_of(self, message: Descriptor, *, clears: bool = True) -> Callable[[Any], None]:
        """The check of one kind of message. A servicer makes it for the items of a batch, which stand alone.

        The proto says so of them with `repeated.items.ignore = IGNORE_ALWAYS`; the call's own check passes them over.
        """
        collect, plan, has_rules = self._validator.collect_violations, plan_of(message), _has_rules(message)
        is_needed, check_times = plan.is_needed, times_check(message)
        proves = proof_of(message) if has_rules else None

        def check(request: Any) -> None:
            fields = apply(plan, request, clears=clears) if is_needed else {}
            if check_times is not None:
                check_times(request, fields)
            if has_rules and (proves is None or not proves(request)):
                for violation in collect(request):
                    fields.setdefault(_path(violation.proto.field), violation.proto.message or violation.proto.rule_id)
            if fields:
                raise InvalidArgument("INVALID_FIELD", fields=dict(list(fields.items())[:_MAX_VIOLATIONS]))

        return check


def _received(check: Callable[[Any], None]) -> Receive:
    def receive(_call: Call, request: Any) -> None:
        if type(request) is Malformed:
            raise request.error()
        check(request)

    return receive


def _skipping(envelope: Descriptor, check: Receive) -> Receive:
    """The check of a stream whose messages are one oneof, not made for those members that have nothing to check."""
    if len(envelope.oneofs) != 1 or len(envelope.oneofs[0].fields) != len(envelope.fields):
        return check
    oneof = envelope.oneofs[0].name
    members = {field.name: field.message_type for field in envelope.fields if field.message_type is not None}
    bare = frozenset(name for name, member in members.items() if not (_has_rules(member) or plan_of(member).is_needed))

    def receive(call: Call, request: Any) -> None:
        if type(request) is Malformed or request.WhichOneof(oneof) not in bare:
            check(call, request)

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
