"""What is recorded of a call: who, what, on what, with what outcome; never what its messages hold."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc

from chassis.call import Call
from chassis.method import Method
from lepton.audit.record import Outcome, clean
from lepton.errors import LeptonError
from lepton.internal.v1.audit_feed_pb2 import AuditEntry

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES: Final = ("name", "parent", "job", "workload", "node", "resource")
_REFUSALS: Final = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def entry_of(call: Call, *, time_ns: int, policy_revision: int, named: str = "") -> AuditEntry:
    """The entry of a call that begins: all that is known before it is served."""
    trace, principal = call.trace, call.principal
    return AuditEntry(
        time_ns=time_ns,
        policy_revision=policy_revision,
        count=1,
        outcome=Outcome.INTERRUPTED,
        trace_id=f"{trace.trace_id:032x}" if trace is not None else "",
        actor=clean(principal.name if principal is not None else call.peer),
        action=call.method.path[1:],
        resource=clean(call.resource or call.asked or named),
        source=call.context.peer(),
    )


def namer(method: Method) -> Callable[[Any], str]:
    """Finds the name of what a request is about, for calls whose rule looks at none: those of peers."""
    known = method.request_type.fields_by_name if method.request_type is not None else {}
    fields = [name for name in _NAMES if name in known and known[name].type == known[name].TYPE_STRING]

    def name_in(request: Any) -> str:
        return next((name for field in fields if "/" in (name := getattr(request, field))), "")

    return name_in


def conclude(entry: AuditEntry, call: Call, error: BaseException | None, answer: Any, *, time_ns: int) -> None:
    """How the call ended, and the name of what it made or changed."""
    entry.time_ns = time_ns
    if error is None:
        entry.outcome = Outcome.SUCCEEDED
        name = getattr(answer, "name", "")
        if isinstance(name, str) and "/" in name:
            entry.resource = clean(name)
            return
    else:
        entry.outcome = Outcome.REFUSED if is_refusal(error) else Outcome.FAILED
        entry.reason = reason_of(error)
    if not entry.resource:
        entry.resource = clean(call.resource)  # a stream tells with its first message


def is_refusal(error: BaseException | None) -> bool:
    """Whether it says that the caller may not."""
    return isinstance(error, LeptonError) and error.code in _REFUSALS


def reason_of(error: BaseException | None) -> str:
    """The reason of an error, which is a word of ours; of any other exception, its class."""
    if isinstance(error, LeptonError):
        return clean(error.reason)
    return type(error).__name__ if error is not None else ""


def nanoseconds(time: datetime) -> int:
    """Nanoseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000
