"""Owns how streams stay known while they are open: each is told to the service beside Envoy, which can end it.

Envoy decides about a call when it begins. What is revoked later would go on for as long as the stream does: so the
external processor (`ext_proc`) tells of each stream's caller, and keeps that call to the service open as long as the
stream is. It is never answered, so that Envoy may begin it again with what it has said, as often as it breaks: a
service that was away, or that was started anew, hears of all streams that are open. A refusal ends the stream.
"""

from typing import Final

from services.inference.envoy.clusters import STREAMS
from services.inference.envoy.routes import Gateway
from services.inference.envoy.upstream import HELD, TYPE, Json

_TOLD: Final = ("envoy.filters.http.jwt_authn", "envoy.filters.http.grpc_field_extraction")
_STREAM: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
_LOST: Final = (
    *("connect-failure", "refused-stream", "reset"),
    *("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"),
)
"""However a call to the service breaks; what is not here, as UNAUTHENTICATED, is its word that the stream must end."""
AGAIN: Final[Json] = {
    "retry_on": ",".join(_LOST),
    "num_retries": 0xFFFFFFFF,
    "retry_back_off": {"base_interval": "0.05s", "max_interval": "2s"},
}


def open_streams(gateway: Gateway) -> Json:
    """The filter's settings: for streams alone, all other calls skip it."""
    processor = {
        "@type": TYPE + "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {
            "envoy_grpc": {"cluster_name": STREAMS},
            "initial_metadata": [{"key": HELD, "value": gateway.holder_key}] if gateway.holder_key else [],
            "retry_policy": AGAIN,
        },
        # Tells and goes on, also while nobody hears it: predictions do not hang on the control plane.
        "observability_mode": True,
        # A refusal counts. Without a service there is nobody to refuse.
        "failure_mode_allow": gateway.streams is None,
        "deferred_close_timeout": "0.1s",
        "processing_mode": {"request_header_mode": "SEND", "response_header_mode": "SKIP"},
        "metadata_options": {"forwarding_namespaces": {"untyped": list(_TOLD)}},
    }
    path = TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    is_stream = {
        "input": {"name": ":path", "typed_config": {"@type": path, "header_name": ":path"}},
        "value_match": {"exact": _STREAM},
    }
    skip = TYPE + "envoy.extensions.filters.common.matcher.action.v3.SkipFilter"
    skipped = {
        "predicate": {"not_matcher": {"single_predicate": is_stream}},
        "on_match": {"action": {"name": "skip", "typed_config": {"@type": skip}}},
    }
    return {
        "extension_config": {"name": "envoy.filters.http.ext_proc", "typed_config": processor},
        "xds_matcher": {"matcher_list": {"matchers": [skipped]}},
    }
