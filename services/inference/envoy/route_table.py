"""Owns which cluster a call goes to: by the model's name and the revision that it names."""

from services.inference.envoy.clusters import any_replica_action, route_action
from services.inference.envoy.fast_path import MODEL, filter_state, spelled
from services.inference.envoy.routes import Gateway, Route, Routes
from services.inference.envoy.upstream import TYPE, Json


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
        "request_headers_to_remove": ["x-lepton-route", "x-envoy-external-address"],
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
