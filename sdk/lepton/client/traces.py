"""Reads traces from the collector."""

import json
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any, Final

from lepton.errors import FailedPrecondition, InvalidArgument, Unavailable

_TIMEOUT_S: Final = 10.0


def read_trace(collector: str, trace_id: str) -> list[dict[str, Any]]:
    """The spans of a trace; none when the collector knows nothing of it."""
    if not collector.startswith(("http://", "https://")):
        raise FailedPrecondition("TRACES_NOT_CONFIGURED")
    if len(trace_id) != 32 or not set(trace_id.lower()) <= set("0123456789abcdef"):
        raise InvalidArgument("INVALID_FIELD", fields={"trace_id": "must be 32 hexadecimal digits"})
    url = f"{collector.rstrip('/')}/api/traces/{trace_id.lower()}"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the scheme is checked above
            spans: list[dict[str, Any]] = json.load(answer)["spans"]
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.NOT_FOUND:
            return []
        raise Unavailable("COLLECTOR_UNAVAILABLE", collector=collector, problem=str(error)) from error
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable("COLLECTOR_UNAVAILABLE", collector=collector, problem=str(error)) from error
    return spans
