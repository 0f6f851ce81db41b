"""Owns how many calls a model takes: token buckets of each deployment and of each of its callers."""

import math
from typing import Any

from services.inference.envoy.routes import Route, RouteLimits, Routes

Json = dict[str, Any]

_MAX_CALLERS = 20_000
"""Buckets of callers that are kept, over all models; the one that was not used for longest goes first."""
_FILL_S = 0.05
"""How often a bucket is filled: the smallest step that Envoy takes."""


def limits(routes: Routes) -> Json:
    """The settings of Envoy's local rate limit: exact names first, a blank value stands for each caller by itself."""
    settings: Json = {
        "stat_prefix": "limits",
        # Of calls that no descriptor names.
        "token_bucket": {"max_tokens": 4_000_000_000, "tokens_per_fill": 4_000_000_000, "fill_interval": "1s"},
        "always_consume_default_token_bucket": False,
        "rate_limited_as_resource_exhausted": True,
        "max_dynamic_descriptors": _MAX_CALLERS,
    }
    descriptors = [each for route in routes.routes for each in _descriptors(route)]
    if not descriptors:
        return settings
    share = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "lepton.unset"}
    return {
        **settings,
        "filter_enabled": share,
        "filter_enforced": share,
        "descriptors": descriptors,
        "rate_limits": [{"actions": [_MODEL]}, {"actions": [_MODEL, _CALLER]}],
    }


def limited_models(routes: Routes) -> tuple[str, ...]:
    """The models whose calls are counted."""
    return tuple(route.model for route in routes.routes if _descriptors(route))


_MODEL: Json = {"request_headers": {"header_name": "x-lepton-route", "descriptor_key": "model"}}
_CALLER: Json = {
    "metadata": {
        "descriptor_key": "caller",
        "metadata_key": {"key": "envoy.filters.http.jwt_authn", "path": [{"key": "claims"}, {"key": "sub"}]},
        "source": "DYNAMIC",
    }
}


def _descriptors(route: Route) -> list[Json]:
    """Unary calls and streams are counted apart; of a stream its start."""
    asked = route.limits
    found: list[Json] = []
    for model in (route.model, f"{route.model}/stream"):
        entry = {"key": "model", "value": model}
        if asked.requests_per_s:
            found.append({"entries": [entry], "token_bucket": _bucket(asked.requests_per_s, asked)})
        if asked.requests_per_s_per_caller:
            caller = {"key": "caller", "value": ""}
            bucket = _bucket(asked.requests_per_s_per_caller, asked)
            found.append({"entries": [entry, caller], "token_bucket": bucket})
    return found


def _bucket(rate: float, asked: RouteLimits) -> Json:
    """Whole tokens at whole milliseconds: seldom enough for one token at least."""
    interval_s = max(_FILL_S, 1 / rate)
    tokens = max(1, round(rate * interval_s))
    return {
        "max_tokens": max(1, tokens, math.ceil(rate * asked.burst_s)),
        "tokens_per_fill": tokens,
        "fill_interval": f"{max(_FILL_S, round(tokens / rate, 3)):g}s",
    }
