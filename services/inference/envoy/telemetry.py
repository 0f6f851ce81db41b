"""Owns what the gateway tells of a call: a line of the access log, and a span."""

from services.inference.envoy.clusters import COLLECTOR
from services.inference.envoy.routes import Gateway
from services.inference.envoy.upstream import TYPE, Json


def access_log(gateway: Gateway) -> Json:
    """One line of JSON a call."""
    claim = "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:claims:{})%"
    fields = {
        "time": "%START_TIME%",
        "method": "%REQ(:PATH)%",
        "model": "%METADATA(ROUTE:envoy.filters.http.lua:model)%",
        "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
        "duration_ms": "%DURATION%",
        "upstream_ms": "%RESPONSE_DURATION%",
        "request_bytes": "%BYTES_RECEIVED%",
        "response_bytes": "%BYTES_SENT%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "replica": "%UPSTREAM_HOST%",
        "flags": "%RESPONSE_FLAGS%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "principal": claim.format("sub"),
        "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "trace_id": "%TRACE_ID%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": TYPE + "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(gateway.access_log),
            "log_format": {"json_format": fields},
        },
    }


def tracing(sampling: float) -> Json:
    """The caller's decision is kept; of calls that bring none, a share is traced."""
    samplers = "envoy.tracers.opentelemetry.samplers."
    kinds = TYPE + "envoy.extensions.tracers.opentelemetry.samplers.v3."
    ratio = {"numerator": round(sampling * 1_000_000), "denominator": "MILLION"}
    share = {
        "name": samplers + "trace_id_ratio_based",
        "typed_config": {"@type": kinds + "TraceIdRatioBasedSamplerConfig", "sampling_percentage": ratio},
    }
    by_parent = {
        "name": samplers + "parent_based",
        "typed_config": {"@type": kinds + "ParentBasedSamplerConfig", "wrapped_sampler": share},
    }
    return {
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": TYPE + "envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": "gateway",
                "sampler": by_parent,
                "grpc_service": {"envoy_grpc": {"cluster_name": COLLECTOR}, "timeout": "1s"},
            },
        },
    }
