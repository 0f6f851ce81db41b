"""Owns what happens to one call at the gateway's door: TLS, token, model name, permission, route, access log, trace."""

from importlib import resources
from typing import Any

from services.inference.envoy.clusters import COLLECTOR, TYPE, Json, any_replica_action, file_source, route_action
from services.inference.envoy.routes import Gateway, Routes

_FILTERS = TYPE + "envoy.extensions.filters.http."
_SERVICE = "inference.GRPCInferenceService"
_MODEL_FIELD = {
    "ModelInfer": "model_name",
    "ModelStreamInfer": "model_name",
    "ModelReady": "name",
    "ModelMetadata": "name",
    "ModelConfig": "name",
    "ModelStatistics": "name",
}
DESCRIPTORS = "inference.binpb"
CERTIFICATE = "gateway-certificate"


def listener(gateway: Gateway) -> Json:
    return {
        "@type": TYPE + "envoy.config.listener.v3.Listener",
        "name": "inference",
        "address": {"socket_address": {"address": gateway.host, "port_value": gateway.port}},
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [
            {
                "transport_socket_connect_timeout": "5s",
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": _tls(gateway)},
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _connection_manager(gateway),
                    }
                ],
            }
        ],
    }


def certificate(gateway: Gateway) -> Json:
    """The secret names files; Envoy reads them again when one is replaced by rename."""
    return {
        "@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": CERTIFICATE,
        "tls_certificate": {
            "certificate_chain": {"filename": str(gateway.certificate)},
            "private_key": {"filename": str(gateway.key)},
        },
    }


def route_table(gateway: Gateway, routes: Routes) -> Json:
    """Routes are looked up by one header in a map, so a call costs the same with one model and with ten thousand."""
    found: dict[str, Json] = {"*": _route(any_replica_action(), model="")}
    for route in routes.routes:
        found[route.model] = _route(route_action(route, streaming=False), model=route.model)
        found[f"{route.model}/stream"] = _route(route_action(route, streaming=True), model=route.model)
    by_model: Json = {
        "matcher_tree": {
            "input": {
                "name": "model",
                "typed_config": {
                    "@type": TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                    "header_name": "x-lepton-route",
                },
            },
            "exact_match_map": {"map": {name: {"action": found[name]} for name in sorted(found)}},
        },
        # What a call has before its first message was read; the policy lets nothing go on with it.
        "on_no_match": {"action": _route({"cluster": "unrouted"}, model="")},
    }
    table = {
        "name": "models",
        "domains": ["*"],
        # The filter that reads the model name holds a call's first message until it is whole.
        "request_body_buffer_limit": gateway.max_message_bytes + (1 << 20),
        "matcher": by_model,
    }
    return {
        "@type": TYPE + "envoy.config.route.v3.RouteConfiguration",
        "name": "models",
        "request_headers_to_remove": ["x-lepton-route"],
        "virtual_hosts": [table],
    }


def _route(action: Json, *, model: str) -> Json:
    return {
        "name": "route",
        "typed_config": {
            "@type": TYPE + "envoy.config.route.v3.Route",
            "match": {"prefix": "/"},
            "metadata": {"filter_metadata": {"envoy.filters.http.lua": {"model": model}}},
            "route": action,
        },
    }


def _tls(gateway: Gateway) -> Json:
    return {
        "@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [
                {"name": CERTIFICATE, "sds_config": file_source(gateway.directory / "sds.json")}
            ],
        },
    }


def _connection_manager(gateway: Gateway) -> Json:
    manager: Json = {
        "@type": TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "codec_type": "HTTP2",
        "server_name": "lepton-gateway",
        "use_remote_address": True,
        "request_headers_timeout": "10s",
        "stream_idle_timeout": "900s",
        "common_http_protocol_options": {"idle_timeout": "300s"},
        "http2_protocol_options": {
            "max_concurrent_streams": 1024,
            "initial_stream_window_size": 1 << 20,
            "initial_connection_window_size": 16 << 20,
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
        },
        "rds": {"route_config_name": "models", "config_source": file_source(gateway.directory / "rds.json")},
        "http_filters": [_token_check(gateway), _model_name(gateway), _policy(), _filter("router", "router.v3.Router")],
        "access_log": [_access_log(gateway)],
    }
    if gateway.collector is not None:
        manager["tracing"] = _tracing(gateway.sampling)
        # Else Envoy decides by the request id and overrules the caller.
        manager["request_id_extension"] = {
            "typed_config": {
                "@type": TYPE + "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "use_request_id_for_trace_sampling": False,
            }
        }
    return manager


def _token_check(gateway: Gateway) -> Json:
    provider = {
        "issuer": gateway.tokens.issuer,
        "audiences": [gateway.tokens.audience],
        "local_jwks": {"inline_string": gateway.tokens.jwks},
        "require_expiration": True,
        "clock_skew_seconds": 30,
        "forward": False,
        "payload_in_metadata": "claims",
        "jwt_cache_config": {"jwt_cache_size": 4096, "jwt_max_token_size": 4096},
    }
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "lepton"}}
    return _filter("jwt_authn", "jwt_authn.v3.JwtAuthentication", providers={"lepton": provider}, rules=[rule])


def _model_name(gateway: Gateway) -> Json:
    return _filter(
        "grpc_field_extraction",
        "grpc_field_extraction.v3.GrpcFieldExtractionConfig",
        descriptor_set={"filename": str(gateway.directory / DESCRIPTORS)},
        extractions_by_method={
            f"{_SERVICE}.{method}": {"request_field_extractions": {field: {}}} for method, field in _MODEL_FIELD.items()
        },
    )


def _policy() -> Json:
    script = resources.files(__package__).joinpath("policy.lua").read_text()
    return _filter("lua", "lua.v3.Lua", default_source_code={"inline_string": script})


def _access_log(gateway: Gateway) -> Json:
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


def _tracing(sampling: float) -> Json:
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


def _filter(name: str, kind: str, **settings: Any) -> Json:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": _FILTERS + kind, **settings}}
