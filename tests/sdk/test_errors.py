"""Errors without a server: the wire form and back."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from lepton import errors


def details(status: status_pb2.Status) -> list[str]:
    return [each.type_url.rpartition(".")[2] for each in status.details]


TABLE = [
    (errors.InvalidArgument("X", fields={"a": "b"}), ["ErrorInfo", "BadRequest"]),
    (errors.InvalidArgument("X"), ["ErrorInfo"]),
    (errors.OutOfRange("X"), ["ErrorInfo"]),
    (errors.FailedPrecondition("X", job="j"), ["ErrorInfo", "PreconditionFailure"]),
    (errors.Aborted("X"), ["ErrorInfo"]),
    (errors.NotFound("X", job="j"), ["ErrorInfo", "ResourceInfo"]),
    (errors.AlreadyExists("X", job="j"), ["ErrorInfo", "ResourceInfo"]),
    (errors.Unauthenticated("X"), ["ErrorInfo"]),
    (errors.PermissionDenied("X"), ["ErrorInfo"]),
    (errors.ResourceExhausted("X"), ["ErrorInfo", "QuotaFailure"]),
    (errors.ResourceExhausted("X", retry_after_s=1), ["ErrorInfo", "QuotaFailure", "RetryInfo"]),
    (errors.Unavailable("X"), ["ErrorInfo", "RetryInfo"]),
    (errors.Internal("X"), ["ErrorInfo"]),
]


@pytest.mark.parametrize(("error", "expected"), TABLE, ids=lambda value: type(value).__name__)
def test_each_class_carries_its_details_once(error: errors.LeptonError, expected: list[str]) -> None:
    assert details(error.to_status("trainer.lepton")) == expected


@pytest.mark.parametrize("error", [error for error, _ in TABLE], ids=lambda value: type(value).__name__)
def test_each_class_comes_back(error: errors.LeptonError) -> None:
    back = errors.from_status(error.to_status("trainer.lepton"))
    assert type(back) is type(error)
    assert (back.reason, back.message, back.metadata, back.fields) == (
        error.reason, error.message, error.metadata, error.fields,
    )  # fmt: skip
    assert back.retry_after_s == error.retry_after_s
    assert back.domain == "trainer.lepton"


def test_every_code_that_a_client_may_see_has_a_class() -> None:
    missing = set(grpc.StatusCode) - set(errors.CLASSES) - {grpc.StatusCode.OK, grpc.StatusCode.DATA_LOSS}
    assert not missing


class Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, metadata: object = ()) -> None:
        self.code = lambda: code
        self.details = lambda: "transport says so"
        self.trailing_metadata = lambda: metadata


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable, "UNREACHABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded, "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Unimplemented, "UNIMPLEMENTED"),
        (grpc.StatusCode.DATA_LOSS, errors.Unknown, "DATA_LOSS"),
    ],
)
def test_an_error_of_the_transport_gets_a_reason(
    code: grpc.StatusCode, kind: type[errors.LeptonError], reason: str
) -> None:
    error = errors.from_rpc_error(Failed(code))
    assert type(error) is kind
    assert (error.reason, error.domain) == (reason, "")


@pytest.mark.parametrize(
    "value",
    [b"\xff garbage", errors.NotFound("X").to_status("x").SerializeToString(), b""],
    ids=["garbage", "another code", "empty"],
)
def test_details_that_do_not_fit_are_left_alone(value: bytes) -> None:
    error = errors.from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, ((errors.DETAILS_KEY, value),)))
    assert error.reason == "UNREACHABLE"


def test_unknown_details_are_ignored() -> None:
    status = errors.Internal("X").to_status("trainer.lepton")
    status.details.add().Pack(error_details_pb2.Help())
    assert errors.from_status(status).reason == "X"
