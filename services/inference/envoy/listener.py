"""Owns what happens to one call at the gateway's door: TLS, token, model name, permission, limits, access log, trace.

The filters that change as the policy and the deployments do are discovered (`ecds/`), each from a file of its own: a
listener that changes drains its connections, a filter does not.
"""

from services.inference.envoy.fast_path import spelling
from services.inference.envoy.filters import discovered, http_filter, model_name
from services.inference.envoy.refusals import local_replies
from services.inference.envoy.routes import Gateway
from services.inference.envoy.secrets import server_tls
from services.inference.envoy.telemetry import access_log, tracing
from services.inference.envoy.upstream import HELD, TYPE, Json, file_source


def listener(gateway: Gateway) -> Json:
    """The one listener of the gateway."""
    return {
        "@type": TYPE + "envoy.config.listener.v3.Listener",
        "name": "inference",
        "address": {"socket_address": {"address": gateway.host, "port_value": gateway.port}},
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [
            {
                "transport_socket_connect_timeout": "5s",
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": server_tls(gateway)},
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _connection_manager(gateway),
                    }
                ],
            }
        ],
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
        # A replica needs neither a number of its own for each call (there is the trace) nor the caller's address.
        "generate_request_id": False,
        "skip_xff_append": True,
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
            discovered(gateway, "authn"),
            model_name(gateway),
            http_filter("set_filter_state", "set_filter_state.v3.Config", **spelling()),
            discovered(gateway, "policy"),
            discovered(gateway, "limits"),
            discovered(gateway, "streams"),
            http_filter("router", "router.v3.Router", suppress_envoy_headers=True),
        ],
        "access_log": [access_log(gateway)],
        "local_reply_config": local_replies(),
    }
    if gateway.collector is not None:
        manager["tracing"] = tracing(gateway.sampling)
        # Else Envoy decides by the request id and overrules the caller.
        manager["request_id_extension"] = {
            "typed_config": {
                "@type": TYPE + "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "use_request_id_for_trace_sampling": False,
            }
        }
    return manager
