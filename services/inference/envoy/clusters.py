"""Owns where calls go: Envoy clusters (one per revision), their endpoints, and when a replica is left alone."""

import math
from collections.abc import Mapping, Sequence

from services.inference.envoy.routes import Endpoint, Gateway, Route, Routes, Shadow, Target
from services.inference.envoy.upstream import (
    CODEC,
    PLAINTEXT,
    SOCKET_MATCH,
    TOLD,
    TYPE,
    Json,
    drop_unsampled_context,
    file_source,
    mutual_tls,
    tell_holder,
    tell_lineage,
    verified_tls,
)

ANY = "any-replica"
COLLECTOR = "collector"
STREAMS = "open-streams"
_HTTP = TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ANY_REPLICA_MAX = 32
_MAX_IN_FLIGHT = 4096


def cluster_files(gateway: Gateway, routes: Routes) -> dict[str, Json]:
    """`cds.json`, and one file of endpoints per cluster: Envoy takes one assignment per file."""
    groups = {route.cluster(target.revision): _priorities(route, target) for route, target in routes.targets()}
    held = {
        route.cluster(target.revision): f"{gateway.holder_key} {route.cluster(target.revision)}"
        for route, target in routes.targets()
        if route.holder
    }
    groups |= {held_cluster(route): [(route.holder,)] for route in routes.routes if route.holder and not route.shares()}
    groups[ANY] = [routes.endpoints()[:_ANY_REPLICA_MAX]]
    groups[STREAMS] = [(gateway.streams,) if gateway.streams else ()]
    files: dict[str, Json] = {
        f"eds/{name}.json": _assignment(name, groups[name], held.get(name, "")) for name in groups
    }
    clusters = {
        route.cluster(target.revision): _revision_cluster(gateway, route, target) for route, target in routes.targets()
    }
    clusters |= {name: _cluster(gateway, name) for name in groups if name not in clusters}
    clusters[STREAMS] = _without_limits(clusters[STREAMS])
    files["cds.json"] = {"resources": [clusters[name] for name in sorted(clusters)]}
    return files


def _without_limits(cluster: Json) -> Json:
    """A cluster whose only endpoint is tried again and again, for as many as ask: it is never ejected."""
    unlimited = dict.fromkeys(("max_pending_requests", "max_requests", "max_retries"), 0xFFFFFFFF)
    kept = {key: value for key, value in cluster.items() if key != "outlier_detection"}
    return {**kept, "circuit_breakers": {"thresholds": [{"max_connections": 1024, **unlimited}]}}


def _revision_cluster(gateway: Gateway, route: Route, target: Target) -> Json:
    return _cluster(
        gateway,
        route.cluster(target.revision),
        lineage={**dict(target.lineage), "lepton-revision": str(target.revision)},
        max_in_flight=route.limits.max_in_flight or _MAX_IN_FLIGHT,
        health_checks=[_HEALTH_CHECK],
        is_held=route.holder is not None,
    )


def held_cluster(route: Route) -> str:
    """The cluster of a model that has no revision yet, only somebody who holds its calls."""
    return f"{route.model}@holder"


def _priorities(route: Route, target: Target) -> list[tuple[Endpoint, ...]]:
    """The replicas, and behind them the holder, whom Envoy falls back to while none of them is healthy."""
    return [target.endpoints, (route.holder,)] if route.holder else [target.endpoints]


def collector_cluster(gateway: Gateway, collector: Endpoint) -> Json:
    """Where the gateway's own spans go."""
    return {
        "name": COLLECTOR,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _http2()},
        "load_assignment": _endpoints(COLLECTOR, [(collector,)]),
        **(verified_tls(gateway, collector.name, gateway.collector_roots) if collector.name else {}),
    }


def route_action(route: Route, *, streaming: bool, only: int | None = None) -> Json:
    """A unary inference is repeatable until an answer came; of a stream only the connection is."""
    repeat_on = "connect-failure,refused-stream" if streaming else "connect-failure,refused-stream,unavailable,reset"
    limits = route.limits
    if streaming:
        lifetime: Json = {"max_stream_duration": f"{limits.max_stream_s:g}s"}
    else:
        default_s = min(route.default_timeout_s, limits.max_deadline_s or math.inf)
        lifetime = {
            "max_stream_duration": f"{default_s:g}s",
            "grpc_timeout_header_max": f"{limits.max_deadline_s:g}s",
        }
    action: Json = {
        **_destination(route, only),
        "timeout": "0s",
        "max_stream_duration": lifetime,
        "retry_policy": _retry(repeat_on),
    }
    if streaming:
        action["idle_timeout"] = "3600s"
    elif route.shadow is not None and route.shadow.share:
        action["request_mirror_policies"] = [_mirror(route, route.shadow)]
    return action


def _destination(route: Route, only: int | None) -> Json:
    if only is not None:
        return {"cluster": route.cluster(only)}
    shares = route.shares()
    if not shares:
        return {"cluster": held_cluster(route)}
    if len(shares) == 1:
        return {"cluster": route.cluster(shares[0][0].revision)}
    clusters = [{"name": route.cluster(target.revision), "weight": weight} for target, weight in shares]
    return {"weighted_clusters": {"clusters": clusters}}


def _mirror(route: Route, shadow: Shadow) -> Json:
    share = {"numerator": round(shadow.share * 1_000_000), "denominator": "MILLION"}
    return {"cluster": route.cluster(shadow.revision), "runtime_fraction": {"default_value": share}}


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


def _cluster(
    gateway: Gateway,
    name: str,
    *,
    lineage: Mapping[str, str] | None = None,
    max_in_flight: int = _MAX_IN_FLIGHT,
    health_checks: Sequence[Json] = (),
    is_held: bool = False,
) -> Json:
    told = [*(tell_lineage(lineage) if lineage else ()), *([tell_holder()] if is_held else ())]
    filters = [drop_unsampled_context(), *told, CODEC]
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": file_source(gateway.directory / "eds" / f"{name}.json")},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _http2(filters=filters)
        },
        **(mutual_tls(gateway) if gateway.roots is not None else {}),
        "health_checks": list(health_checks),
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
                    "max_pending_requests": max_in_flight,
                    "max_requests": max_in_flight,
                    "retry_budget": {"budget_percent": {"value": 25}, "min_retry_concurrency": 10},
                }
            ]
        },
    }


def _assignment(name: str, priorities: Sequence[Sequence[Endpoint]], held: str = "") -> Json:
    assignment = {
        "@type": TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment",
        **_endpoints(name, priorities, held),
    }
    return {"resources": [assignment]}


def _endpoints(name: str, priorities: Sequence[Sequence[Endpoint]], held: str = "") -> Json:
    """The first of the priorities that has a healthy endpoint gets all calls: one of a thousand is enough."""
    return {
        "cluster_name": name,
        "endpoints": [
            {"priority": priority, "lb_endpoints": [_lb_endpoint(one, held if priority else None) for one in endpoints]}
            for priority, endpoints in enumerate(priorities)
        ],
        "policy": {"overprovisioning_factor": 100_000},
    }


def _lb_endpoint(endpoint: Endpoint, held: str | None) -> Json:
    """A replica (`held` is None), which says what engine it has, or the holder, which is told whom a call is for."""
    host: Json = {"address": {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}}
    told = {"engine": endpoint.engine} if held is None else {"held": held}
    if held is not None:
        host["health_check_config"] = {"disable_active_health_check": True}
    if endpoint.name:
        host["hostname"] = endpoint.name
    known = {key: value for key, value in told.items() if value}
    metadata = {TOLD: known, SOCKET_MATCH: {} if endpoint.name else PLAINTEXT}
    return {"endpoint": host, "metadata": {"filter_metadata": {key: each for key, each in metadata.items() if each}}}


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
