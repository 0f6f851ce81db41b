"""Owns what happens to one call at the gateway's door: TLS, token, model name, permission, limits, access log, trace.

The filters that change as the policy and the deployments do are discovered (`ecds/`), each from a file of its own: a
listener that changes drains its connections, a filter does not.
"""

from typing import Any

from services.inference.envoy.clusters import COLLECTOR, any_replica_action, route_action
from services.inference.envoy.fast_path import MODEL, fast_path, filter_state, spelled, spelling
from services.inference.envoy.limits import limited_models, limits
from services.inference.envoy.open_streams import open_streams
from services.inference.envoy.policy import policy_source
from services.inference.envoy.refusals import local_replies
from services.inference.envoy.routes import Gateway, Route, Routes
from services.inference.envoy.upstream import CERTIFICATE, HELD, ROOTS, TYPE, Json, file_source

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
_MATCHED = TYPE + "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
_DISCOVERED = {
    "authn": _FILTERS + "jwt_authn.v3.JwtAuthentication",
    "policy": _MATCHED,
    "limits": _FILTERS + "local_ratelimit.v3.LocalRateLimit",
    "streams": _MATCHED,
}


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


def roots(gateway: Gateway) -> Json:
    """Whom replicas must have their certificates of; read again when the file is replaced by rename."""
    return {
        "@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": ROOTS,
        "validation_context": {"trusted_ca": {"filename": str(gateway.roots)}},
    }


def route_table(gateway: Gateway, routes: Routes) -> Json:
    """Routes are looked up by one header in a map, so a call costs the same with one model and with ten thousand."""
    found: dict[str, Json] = {"*": {"action": _route(any_replica_action(), model="")}}
    for route in routes.routes:
        found[route.model] = _of_model(route, streaming=False)
        found[f"{route.model}/stream"] = _of_model(route, streaming=True)
    plain = {spelled(route.model): _of_model(route, streaming=False, by_header=False) for route in routes.routes}
    # There is no such cluster. It is a route all the same: only a route has a limit of what may be buffered.
    unserved = {"action": _route({"cluster": "unserved"}, model="")}
    unrouted: Json = unserved
    if plain:
        tree = {"input": filter_state(MODEL), "exact_match_map": {"map": plain}}
        unrouted = {"matcher": {"matcher_tree": tree, "on_no_match": unserved}}
    by_model: Json = {
        "matcher_tree": {
            "input": _header("x-lepton-route"),
            "exact_match_map": {"map": {name: found[name] for name in sorted(found)}},
        },
        # What the policy let pass without a word about the route.
        "on_no_match": unrouted,
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


def _of_model(route: Route, *, streaming: bool, by_header: bool = True) -> Json:
    """By the revision that the call names, else by the weights."""
    about = {"model": route.model, "above": route.above}
    by_weight = {"action": _route(route_action(route, streaming=streaming), **about)}
    if not route.targets or not by_header:
        return by_weight
    named = {
        str(target.revision): {
            "action": _route(
                route_action(route, streaming=streaming, only=target.revision), revision=str(target.revision), **about
            )
        }
        for target in route.targets
    }
    tree = {"input": _header("lepton-revision"), "exact_match_map": {"map": named}}
    return {"matcher": {"matcher_tree": tree, "on_no_match": by_weight}}


def _header(name: str) -> Json:
    return {
        "name": name,
        "typed_config": {"@type": TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": name},
    }


def _route(action: Json, **about: str) -> Json:
    """A route, and what the policy is told about it."""
    return {
        "name": "route",
        "typed_config": {
            "@type": TYPE + "envoy.config.route.v3.Route",
            "match": {"prefix": "/"},
            "metadata": {"filter_metadata": {"envoy.filters.http.lua": about}},
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
        # Before any route is looked up: a caller's own word about its route counts nowhere, nor do the headers that
        # Envoy takes timeouts and retries from, whoever sends them.
        "early_header_mutation_extensions": [
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": TYPE + "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                    "mutations": [
                        {"remove": "x-lepton-route"},
                        {"remove": HELD},
                        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
                    ],
                },
            }
        ],
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
        "http_filters": [
            _discovered(gateway, "authn"),
            _model_name(gateway),
            _filter("set_filter_state", "set_filter_state.v3.Config", **spelling()),
            _discovered(gateway, "policy"),
            _discovered(gateway, "limits"),
            _discovered(gateway, "streams"),
            _filter("router", "router.v3.Router"),
        ],
        "access_log": [_access_log(gateway)],
        "local_reply_config": local_replies(),
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


def discovered_filters(gateway: Gateway, routes: Routes) -> dict[str, Json]:
    """The files of the filters that change without the listener."""
    settings = {
        "authn": _token_check(gateway),
        "policy": _policy(gateway, routes),
        "limits": limits(routes),
        "streams": open_streams(gateway),
    }
    return {
        f"ecds/{name}.json": {
            "resources": [
                {
                    "@type": TYPE + "envoy.config.core.v3.TypedExtensionConfig",
                    "name": name,
                    "typed_config": {"@type": _DISCOVERED[name], **settings[name]},
                }
            ]
        }
        for name in _DISCOVERED
    }


def _discovered(gateway: Gateway, name: str) -> Json:
    return {
        "name": name,
        "config_discovery": {
            "config_source": file_source(gateway.directory / "ecds" / f"{name}.json"),
            "type_urls": [_DISCOVERED[name]],
        },
    }


def _policy(gateway: Gateway, routes: Routes) -> Json:
    """The script that decides, and the matcher that knows for whom it need not run."""
    source = {"inline_string": policy_source(gateway.tokens.calls)}
    return {
        "extension_config": _filter("lua", "lua.v3.Lua", default_source_code=source),
        "xds_matcher": fast_path(gateway.tokens.calls, limited_models(routes)),
    }


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
    return {"providers": {"lepton": provider}, "rules": [rule]}


def _model_name(gateway: Gateway) -> Json:
    return _filter(
        "grpc_field_extraction",
        "grpc_field_extraction.v3.GrpcFieldExtractionConfig",
        descriptor_set={"filename": str(gateway.directory / DESCRIPTORS)},
        extractions_by_method={
            f"{_SERVICE}.{method}": {"request_field_extractions": {field: {}}} for method, field in _MODEL_FIELD.items()
        },
    )


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
