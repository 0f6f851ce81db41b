"""What an answer may look like: a status on purpose, with details that fit, and nothing of how the server is built."""

import re
from typing import Final
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from lepton.errors import DETAILS_KEY, LeptonError, from_status
from lepton.reasons import TEXTS
from tests.fuzz.context import Metadata

# gRPC refuses 8 KiB of metadata in all; what the transport itself adds to the trailers is less than this.
MOST_TRAILERS: Final = (8 << 10) - 512
NEVER: Final = frozenset({
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNIMPLEMENTED,
})  # fmt: skip
INTERNALS: Final = re.compile(
    r"""Traceback|File\ "|\.py\b|\bline\ \d+,\ in|site-packages|\ object\ at\ 0x|<class\ |<module|NoneType|__\w+__|"""
    r"""\b(?:Key|Type|Attribute|Index|Value|Assertion|Overflow|Recursion|Runtime|Unicode\w+|Decode|NotImplemented)Error\b|"""
    r"""/lepton/(?:auth|scheduler|trainer|inference)/|/tmp/|/home/|/usr/|errno|etcd|protobuf|upb|pydantic|joserfc|argon""",
    re.VERBOSE,
)


def judged(status: grpc.StatusCode | None, details: str, trailers: Metadata, sent: str = "") -> str:
    """What is wrong with an answer; empty for a good one. `sent` is what the caller said: that may be repeated."""
    if status is None:
        return ""
    if status in NEVER:
        return f"the status is {status.name}: {details}"
    packed = next((value for key, value in trailers if key == DETAILS_KEY), None)
    if not isinstance(packed, bytes):
        return f"{status.name} carries no details"
    try:
        full = status_pb2.Status.FromString(packed)
    except DecodeError:
        return "the details are no google.rpc.Status"
    infos = [info for any_ in full.details if any_.Unpack(info := error_details_pb2.ErrorInfo())]
    if len(infos) != 1 or not is_known(infos[0].reason):
        return f"not one ErrorInfo with a known reason: {[info.reason for info in infos]}"
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "RATE_LIMITED" in infos[0].reason and not _retries(full):
        return "a rate limit without RetryInfo"
    size = len(quote(details, safe=" !#$&'()*+,/:;=?@[]")) + sum(
        len(key) + len(value) * 4 // 3 for key, value in trailers
    )
    if size > MOST_TRAILERS:
        return f"the trailers have {size} bytes: the client sees none of this"
    for text in (details, full.message, *_texts(full)):
        if (found := INTERNALS.search(text)) and found.group() not in sent:
            return f"{status.name} tells {found.group()!r}: {text[:200]}"
    return ""


def is_known(reason: str) -> bool:
    """Whether the reason is in the table, or one of those that follow from a resource's name."""
    return reason in TEXTS or reason.endswith(("_NOT_FOUND", "_ALREADY_EXISTS"))


def from_trailers(trailers: Metadata) -> LeptonError | None:
    """The error that an answer's details describe."""
    packed = next((value for key, value in trailers if key == DETAILS_KEY), None)
    return from_status(status_pb2.Status.FromString(packed)) if isinstance(packed, bytes) else None


def _retries(full: status_pb2.Status) -> bool:
    return any(any_.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for any_ in full.details)


def _texts(full: status_pb2.Status) -> list[str]:
    found: list[str] = []
    bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
    state, quota = error_details_pb2.PreconditionFailure(), error_details_pb2.QuotaFailure()
    for any_ in full.details:
        if any_.Unpack(bad):
            found += [text for each in bad.field_violations for text in (each.field, each.description)]
        elif any_.Unpack(info):
            found += info.metadata.values()
        elif any_.Unpack(state):
            found += [each.description for each in state.violations]
        elif any_.Unpack(quota):
            found += [each.description for each in quota.violations]
    return found
