"""Owns where calls go: Envoy clusters (one per model), their endpoints, and when a replica is left alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from services.inference.envoy.routes import Endpoint, Gateway, Route, Routes

Json = dict[str, Any]

TYPE = "type.googleapis.com/"
ANY = "any-replica"
COLLECTOR = "collector"
_HTTP = TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ANY_REPLICA_MAX = 32


def cluster_files(gateway: Gateway, routes: Routes) -> dict[str, Json]:
    """`cds.json`, and one file of endpoints per cluster: Envoy takes one assignment per file."""
    groups = {route.model: route.endpoints for route in routes.routes}
    groups[ANY] = routes.endpoints()[:_ANY_REPLICA_MAX]
    files: dict[str, Json] = {f"eds/{name}.json": _assignment(name, endpoints) for name, endpoints in groups.items()}
    files["cds.json"] = {"resources": [_cluster(name, gateway.directory) for name in sorted(groups)]}
    return files


def collector_cluster(collector: Endpoint) -> Json:
    return {
        "name": COLLECTOR,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _http2()},
        "load_assignment": _endpoints(COLLECTOR, [collector]),
    }


def route_action(route: Route, *, streaming: bool) -> Json:
    """A unary inference is repeatable until an answer came; of a stream only the connection is."""
    repeat_on = "connect-failure,refused-stream" if streaming else "connect-failure,refused-stream,unavailable,reset"
    lifetime: Json = {"grpc_timeout_header_max": "0s"}
    if not streaming:
        lifetime["max_stream_duration"] = f"{route.default_timeout_s:g}s"
    action: Json = {
        "cluster": route.model,
        "timeout": "0s",
        "max_stream_duration": lifetime,
        "retry_policy": _retry(repeat_on),
    }
    if streaming:
        action["idle_timeout"] = "3600s"
    return action


def any_replica_action() -> Json:
    """Calls about the server itself are cheap and go to any replica: one that is silent is left for another soon."""
    retry = {**_retry("connect-failure,refused-stream,unavailable,reset"), "per_try_timeout": "2s"}
    return {"cluster": ANY, "timeout": "8s", "retry_policy": retry}


def _retry(retry_on: str) -> Json:
    previous = TYPE + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": retry_on,
        "num_retries": 3,
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous}}
        ],
        # A dead replica has no call in flight, so least-request picks it three times in four: with 5 attempts a quarter
        # of the retries went back to it. Asking again costs nothing against a connection that is refused.
        "host_selection_retry_max_attempts": 64,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
    }


# A replica that is hung answers no health check: it gets no new call, and is back as soon as it answers.
_HEALTH_CHECK: Json = {
    "timeout": "2s",
    "interval": "2s",
    "no_traffic_interval": "2s",
    "unhealthy_threshold": 2,
    "healthy_threshold": 1,
    "grpc_health_check": {},
}


def _cluster(name: str, directory: Path) -> Json:
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": file_source(directory / "eds" / f"{name}.json")},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _http2(filters=_UPSTREAM_FILTERS)
        },
        "health_checks": [] if name == ANY else [_HEALTH_CHECK],
        # A replica leaves when the file says so, though it may still be healthy; calls in flight finish.
        "ignore_health_on_host_removal": True,
        # Without a window: by default Envoy's workers hear only after a second that a replica has become healthy, while
        # its admin interface, by which a deployment is called READY, says so at once.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        # 5xx answers may be the caller's own bad input; only what the replica did as a server counts against it.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "consecutive_local_origin_failure": 3,
            "interval": "1s",
            "base_ejection_time": "3s",
            "max_ejection_time": "30s",
            "max_ejection_percent": 50,
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 1024,
                    "max_pending_requests": 4096,
                    "max_requests": 4096,
                    "retry_budget": {"budget_percent": {"value": 25}, "min_retry_concurrency": 10},
                }
            ]
        },
    }


def file_source(path: Path) -> Json:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def _assignment(name: str, endpoints: Iterable[Endpoint]) -> Json:
    assignment = {"@type": TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment", **_endpoints(name, endpoints)}
    return {"resources": [assignment]}


def _endpoints(name: str, endpoints: Iterable[Endpoint]) -> Json:
    return {
        "cluster_name": name,
        "endpoints": [
            {
                "lb_endpoints": [
                    {"endpoint": {"address": {"socket_address": {"address": one.host, "port_value": one.port}}}}
                    for one in endpoints
                ]
            }
        ],
    }


def _http2(filters: list[Json] | None = None) -> Json:
    options: Json = {
        "@type": _HTTP,
        "explicit_http_config": {
            "http2_protocol_options": {
                "initial_stream_window_size": 1 << 20,
                "initial_connection_window_size": 16 << 20,
                # A connection to a stopped process is cut, so that its calls are tried elsewhere.
                "connection_keepalive": {"interval": "5s", "timeout": "3s"},
            }
        },
    }
    if filters:
        options["http_filters"] = filters
    return options


def _drop_unsampled_context() -> Json:
    """Triton traces every call that brings a `traceparent`, whatever its flag: it gets the sampled ones only."""
    return {
        "name": "drop-unsampled-context",
        "typed_config": {
            "@type": TYPE + "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {
                "name": "envoy.filters.http.header_mutation",
                "typed_config": {
                    "@type": TYPE + "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                    "mutations": {"request_mutations": [{"remove": "traceparent"}, {"remove": "tracestate"}]},
                },
            },
            "xds_matcher": {
                "matcher_list": {
                    "matchers": [
                        {
                            "predicate": {
                                "single_predicate": {
                                    "input": {
                                        "name": "traceparent",
                                        "typed_config": {
                                            "@type": TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                                            "header_name": "traceparent",
                                        },
                                    },
                                    "value_match": {"suffix": "-01"},
                                }
                            },
                            "on_match": {
                                "action": {
                                    "name": "skip",
                                    "typed_config": {
                                        "@type": TYPE + "envoy.extensions.filters.common.matcher.action.v3.SkipFilter"
                                    },
                                }
                            },
                        }
                    ]
                }
            },
        },
    }


_UPSTREAM_FILTERS: list[Json] = [
    _drop_unsampled_context(),
    {
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {"@type": TYPE + "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"},
    },
]
