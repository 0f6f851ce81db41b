"""Owns what a caller hears when Envoy itself answers: the typed errors of Lepton in place of Envoy's own words."""

import base64
from typing import Any, Final

from grpc import StatusCode

from lepton.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LeptonError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from services.inference.envoy.access import PREDICTS

Json = dict[str, Any]

DOMAIN: Final = "gateway.lepton"
_TYPE: Final = "type.googleapis.com/"


def local_replies() -> Json:
    """Envoy's `local_reply_config`: the first that matches is what the caller gets."""
    return {
        "mappers": [
            _mapper(_detail("jwt_authn_access_denied{Jwt_is_missing}"), Unauthenticated("TOKEN_MISSING")),
            _mapper(_detail("jwt_authn_access_denied{Jwt_is_expired}"), Unauthenticated("TOKEN_EXPIRED")),
            _mapper(_status(401), Unauthenticated("TOKEN_INVALID")),
            _mapper(
                _detail("jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}"), Unauthenticated("TOKEN_INVALID")
            ),
            _mapper(_status(413), ResourceExhausted("MESSAGE_TOO_LARGE")),
            _mapper(
                _detail("grpc_field_extraction_FAILED_PRECONDITION{REQUEST_BUFFER_CONVERSION_FAIL}"),
                ResourceExhausted("MESSAGE_TOO_LARGE"),
            ),
            _mapper(_expression(_COMPRESSED), Unimplemented("MESSAGE_COMPRESSED")),
            _mapper(_expression(_UNREADABLE), InvalidArgument("MALFORMED_MESSAGE", message="a request of its method")),
            _mapper(
                _detail("upstream_reset_before_response_started{protocol_error}"), InvalidArgument("NAME_TOO_LONG")
            ),
            _mapper(_status(429), ResourceExhausted("RATE_LIMITED", retry_after_s=1.0)),
            _mapper(_flags("UO"), ResourceExhausted("TOO_MANY_IN_FLIGHT", retry_after_s=0.1)),
            _mapper(_flags("UH"), Unavailable("NO_REPLICA", retry_after_s=1.0)),
            _mapper(_flags("UF", "UC", "UR", "URX"), Unavailable("REPLICA_LOST", retry_after_s=0.5)),
            _mapper(_flags("NC"), NotFound("MODEL_NOT_SERVED", model="the one that the request names")),
            _mapper(_stream_cut(Unauthenticated.code), Unauthenticated("TOKEN_REVOKED")),
            _mapper(
                _stream_cut(PermissionDenied.code),
                PermissionDenied("PERMISSION_DENIED", permission=PREDICTS, resource="the model of the stream"),
            ),
            _mapper(_detail("max_duration_timeout"), DeadlineExceeded("DEADLINE_EXCEEDED")),
            _mapper(_detail("upstream_max_stream_duration_reached"), DeadlineExceeded("DEADLINE_EXCEEDED")),
        ]
    }


_UNREADABLE: Final = "response.code_details.startsWith('grpc_field_extraction_')"
_COMPRESSED: Final = f"{_UNREADABLE} && 'grpc-encoding' in request.headers"


def _mapper(match: Json, error: LeptonError) -> Json:
    code: int = error.code.value[0]
    details = base64.b64encode(error.to_status(DOMAIN).SerializeToString()).decode()
    headers = {"grpc-status": str(code), "grpc-status-details-bin": details}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return {
        "filter": match,
        "body_format_override": {"text_format_source": {"inline_string": error.message.replace("%", "%%")}},
        "headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ],
    }


def _status(code: int) -> Json:
    value = {"default_value": code, "runtime_key": "lepton.unset"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _flags(*flags: str) -> Json:
    return {"response_flag_filter": {"flags": list(flags)}}


def _detail(detail: str) -> Json:
    return _expression(f"response.code_details == '{detail}'")


def _stream_cut(code: StatusCode) -> Json:
    """What the service beside Envoy has said of an open stream; its own words are part of the detail."""
    return _expression(f"response.code_details.startsWith('ext_proc_error_gRPC_error_{code.value[0]}{{')")


def _expression(expression: str) -> Json:
    kind = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    config = {"@type": _TYPE + kind, "expression": expression}
    return {"extension_filter": {"name": "envoy.access_loggers.extension_filters.cel", "typed_config": config}}
