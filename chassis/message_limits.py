"""How large and how deep a request may be, by its method: checked before and while it is decoded, whoever sends it."""

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor

from chassis.method import Method
from lepton.errors import InvalidArgument, LeptonError, ResourceExhausted

PUBLIC_BYTES: Final = 64 << 10
"""Of a method that anyone may call: a name, a password, a signing request."""
USUAL_BYTES: Final = 1 << 20
BULK_BYTES: Final = 4 << 20
"""What gRPC itself lets through (chassis.server)."""
DEPTH: Final = 32
"""Messages within messages, where a kind may hold itself; protobuf's own limit is 100."""

# Methods whose requests carry data or many things at once. The mesh's own (lepton.internal) need no entry.
BULK: Final = frozenset({
    "lepton.scheduler.v1.PlanningService.PlanAllocation",
    "lepton.scheduler.v1.PlanningService.PlanBalancing",
    "lepton.scheduler.v1.PlanningService.PlanScaling",
    "lepton.scheduler.v1.PlanningService.WhatIf",
    "lepton.scheduler.v1.SchedulerService.BatchCreateWorkloads",
    "lepton.trainer.v1.ArtifactService.UploadArtifact",
})  # fmt: skip

Decode = Callable[[bytes], Any]


def most_bytes(method: Method) -> int:
    """The largest request of a method, in bytes on the wire (uncompressed)."""
    if method.rule is not None and method.rule.public:
        return PUBLIC_BYTES
    if method.service.startswith("lepton.internal.") or f"{method.service}.{method.name}" in BULK:
        return BULK_BYTES
    return USUAL_BYTES


class Malformed:
    """Stands for a request that was not decoded, so that it is refused in order and not by gRPC's UNKNOWN."""

    def __init__(self, error: LeptonError) -> None:
        object.__setattr__(self, "_error", error)

    def __getattr__(self, name: str) -> Any:
        raise self.error()

    def error(self) -> LeptonError:
        """The answer to such a request."""
        found: LeptonError = object.__getattribute__(self, "_error")
        return found


def decoder(decode: Decode | None, method: Method) -> Decode:
    """Decodes the requests of a method; what is too large, too deep or no such message becomes a Malformed."""
    kind = method.request_type
    name = kind.full_name if kind is not None else "the request"
    most, too_deep = most_bytes(method), depth_check(kind) if kind is not None else None

    def safely(data: bytes) -> Any:
        if len(data) > most:
            return Malformed(ResourceExhausted("REQUEST_TOO_LARGE", size=str(len(data)), limit=str(most)))
        try:
            message = decode(data) if decode is not None else data
        except Exception:  # noqa: BLE001 - whatever the decoder raises means one thing; gRPC would answer UNKNOWN
            return Malformed(InvalidArgument("MALFORMED_MESSAGE", message=name))
        if too_deep is not None and too_deep(message):
            return Malformed(InvalidArgument("REQUEST_TOO_DEEP", message=name, limit=str(DEPTH)))
        return message

    return safely


def depth_check(kind: Descriptor) -> Callable[[Any], bool] | None:
    """Says of a message of this kind whether it is deeper than DEPTH; None where no message of it can be."""
    return _is_deeper if _may_hold_itself(kind) else None


def _is_deeper(message: Any) -> bool:
    """Level by level, without recursion: what is looked at is only what is there."""
    level = [message]
    for _ in range(DEPTH):
        level = [child for each in level for child in _children(each)]
        if not level:
            return False
    return True


def _children(message: Any) -> list[Any]:
    found: list[Any] = []
    for field, value in message.ListFields():
        inner = field.message_type
        if inner is None:
            continue
        if inner.GetOptions().map_entry:
            if inner.fields_by_name["value"].message_type is not None:
                found += value.values()
        elif field.is_repeated:
            found += value
        else:
            found.append(value)
    return found


def _may_hold_itself(kind: Descriptor, above: tuple[str, ...] = ()) -> bool:
    if kind.full_name in above:
        return True
    inner = (field.message_type for field in kind.fields if field.message_type is not None)
    return any(_may_hold_itself(each, (*above, kind.full_name)) for each in inner)
