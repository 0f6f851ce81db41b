"""Owns how streams stay known while they are open: each is told to the service beside Envoy, which can end it.

Envoy decides about a call when it begins. What is revoked later would go on for as long as the stream does: so the
external processor (`ext_proc`) hears of each stream's caller, and an immediate response at any time ends the stream.
Streams go on without it: when the service is away they are served, and end with the token's revocation no more.
"""

from services.inference.envoy.clusters import STREAMS
from services.inference.envoy.routes import Gateway
from services.inference.envoy.upstream import HELD, TYPE, Json

_TOLD = ("envoy.filters.http.jwt_authn", "envoy.filters.http.grpc_field_extraction")
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
_PATIENCE = "1s"


def open_streams(gateway: Gateway) -> Json:
    """The filter's settings: for streams alone, all other calls skip it."""
    processor = {
        "@type": TYPE + "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {
            "envoy_grpc": {"cluster_name": STREAMS},
            "initial_metadata": [{"key": HELD, "value": gateway.holder_key}] if gateway.holder_key else [],
        },
        "failure_mode_allow": True,
        # The trailers are asked for so that Envoy keeps the processor's stream until the call ends.
        "processing_mode": {
            "request_header_mode": "SEND",
            "response_header_mode": "SKIP",
            "response_trailer_mode": "SEND",
        },
        "message_timeout": _PATIENCE,
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
