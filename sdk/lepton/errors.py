"""The errors of Lepton: raised by condition, sent as google.rpc.Status, rebuilt as the same class at the client."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from lepton import reasons

DETAILS_KEY: Final = "grpc-status-details-bin"


class LeptonError(Exception):
    """An error with a gRPC code, a reason that programs can match, the facts, and a message that tells what to do."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    default_retry_after_s: ClassVar[float | None] = None

    def __init__(
        self,
        reason: str,
        message: str | None = None,
        /,
        *,
        fields: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        **metadata: str,
    ) -> None:
        self.reason = reason
        self.metadata: dict[str, str] = {key: str(value) for key, value in metadata.items()}
        self.fields: dict[str, str] = dict(fields or {})
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s
        self.message = reasons.text(reason, self.metadata) if message is None else message
        self.domain = ""  # who sent it; known at the client
        super().__init__(self.message)

    def __str__(self) -> str:
        fields = "; ".join(f"{path}: {what}" for path, what in self.fields.items())
        return f"{self.reason}: {self.message}" + (f" ({fields})" if fields else "")

    def to_status(self, domain: str) -> status_pb2.Status:
        """The wire form: code, message, exactly one ErrorInfo, and the details that belong to the class."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=domain, metadata=self.metadata)
        details: list[Message] = [info, *self._details()]
        if self.retry_after_s is not None:
            details.append(error_details_pb2.RetryInfo(retry_delay=_duration(self.retry_after_s)))
        code: int = self.code.value[0]
        return status_pb2.Status(code=code, message=self.message, details=[_pack(detail) for detail in details])

    def _details(self) -> Iterable[Message]:
        return ()


class InvalidArgument(LeptonError):
    """The request is wrong whatever the state; `fields` says which fields and why."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def _details(self) -> Iterable[Message]:
        if self.fields:
            yield error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=path, description=what)
                    for path, what in self.fields.items()
                ]
            )


class OutOfRange(LeptonError):
    """A position that no longer, or not yet, exists; for example a compacted revision."""

    code = grpc.StatusCode.OUT_OF_RANGE


class FailedPrecondition(LeptonError):
    """The state does not allow it; the caller must change something first. `fields` maps subjects to what is wrong."""

    code = grpc.StatusCode.FAILED_PRECONDITION

    def _details(self) -> Iterable[Message]:
        subjects = self.fields or {next(iter(self.metadata.values()), ""): self.message}
        yield error_details_pb2.PreconditionFailure(
            violations=[
                error_details_pb2.PreconditionFailure.Violation(type=self.reason, subject=subject, description=what)
                for subject, what in subjects.items()
            ]
        )


class Aborted(LeptonError):
    """A conflict of etags or transactions; read again and retry."""

    code = grpc.StatusCode.ABORTED


class _AboutResource(LeptonError):
    """An error about one resource: the first fact names its type and its name."""

    def _details(self) -> Iterable[Message]:
        for kind, name in self.metadata.items():
            yield error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name, description=self.message)
            return


class NotFound(_AboutResource):
    """There is no such resource, or the caller may not know of it."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(_AboutResource):
    """The resource exists already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Unauthenticated(LeptonError):
    """It is not known who calls."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(LeptonError):
    """It is known who calls, and they may not."""

    code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(LeptonError):
    """A quota, a queue or a memory is full. `fields` maps the quota's subjects to what is exhausted."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def _details(self) -> Iterable[Message]:
        subjects = self.fields or {next(iter(self.metadata.values()), ""): self.message}
        yield error_details_pb2.QuotaFailure(
            violations=[
                error_details_pb2.QuotaFailure.Violation(subject=subject, description=what)
                for subject, what in subjects.items()
            ]
        )


class Unavailable(LeptonError):
    """The server cannot answer now: leader change, backend down, draining. Retry after `retry_after_s`."""

    code = grpc.StatusCode.UNAVAILABLE
    default_retry_after_s = 1.0


class DeadlineExceeded(LeptonError):
    """The call did not finish in time."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(LeptonError):
    """The call was cancelled."""

    code = grpc.StatusCode.CANCELLED


class Unimplemented(LeptonError):
    """The server does not know the method."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(LeptonError):
    """A bug of the server; the detail is in its log only."""

    code = grpc.StatusCode.INTERNAL


class Unknown(LeptonError):
    """The server leaked an exception; never raised on purpose."""

    code = grpc.StatusCode.UNKNOWN


CLASSES: Final[Mapping[grpc.StatusCode, type[LeptonError]]] = {
    kind.code: kind
    for kind in (
        InvalidArgument, OutOfRange, FailedPrecondition, Aborted, NotFound, AlreadyExists, Unauthenticated,
        PermissionDenied, ResourceExhausted, Unavailable, DeadlineExceeded, Cancelled, Unimplemented, Internal, Unknown,
    )
}  # fmt: skip
BARE_REASONS: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.UNAVAILABLE: "UNREACHABLE",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "MESSAGE_TOO_LARGE",
}


def from_rpc_error(error: grpc.RpcError) -> LeptonError:
    """The error that the server raised, rebuilt from a failed call; transport errors get a reason of their own."""
    call: Any = error  # grpc.RpcError is also a Call; the stubs do not say so
    code: grpc.StatusCode = call.code() or grpc.StatusCode.UNKNOWN
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                break
            if status.code == code.value[0]:
                return from_status(status)
    reason = BARE_REASONS.get(code, code.name)
    return CLASSES.get(code, Unknown)(reason, call.details() or None)


def from_status(status: status_pb2.Status) -> LeptonError:
    """The error that a google.rpc.Status describes."""
    kind = next((kind for code, kind in CLASSES.items() if code.value[0] == status.code), Unknown)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    fields: dict[str, str] = {}
    retry_after_s: float | None = None
    for packed in status.details:
        if packed.Unpack(info):
            continue
        if packed.Unpack(retry):
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            continue
        fields.update(_fields(packed))
    if fields == {next(iter(info.metadata.values()), ""): status.message}:
        fields = {}  # the default subject that _details() made
    error = kind(info.reason or kind.code.name, status.message, fields=fields, retry_after_s=retry_after_s)
    error.metadata = dict(info.metadata)
    error.domain = info.domain
    return error


def _fields(packed: any_pb2.Any) -> Mapping[str, str]:
    bad, state, quota = (
        error_details_pb2.BadRequest(),
        error_details_pb2.PreconditionFailure(),
        error_details_pb2.QuotaFailure(),
    )
    if packed.Unpack(bad):
        return {violation.field: violation.description for violation in bad.field_violations}
    if packed.Unpack(state):
        return {violation.subject: violation.description for violation in state.violations}
    if packed.Unpack(quota):
        return {violation.subject: violation.description for violation in quota.violations}
    return {}


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
