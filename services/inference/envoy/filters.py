"""Owns the filters that a call passes; those that change with the policy and the deployments are files of their own."""

from typing import Any

from services.inference.envoy.fast_path import fast_path
from services.inference.envoy.limits import limited_models, limits
from services.inference.envoy.open_streams import open_streams
from services.inference.envoy.policy import policy_source
from services.inference.envoy.routes import Gateway, Routes
from services.inference.envoy.upstream import TYPE, Json, file_source

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


def discovered(gateway: Gateway, name: str) -> Json:
    """The place of a filter whose settings are in a file of its own."""
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
        "extension_config": http_filter("lua", "lua.v3.Lua", default_source_code=source),
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


def model_name(gateway: Gateway) -> Json:
    """The filter that reads the model's name from a call's first message."""
    return http_filter(
        "grpc_field_extraction",
        "grpc_field_extraction.v3.GrpcFieldExtractionConfig",
        descriptor_set={"filename": str(gateway.directory / DESCRIPTORS)},
        extractions_by_method={
            f"{_SERVICE}.{method}": {"request_field_extractions": {field: {}}} for method, field in _MODEL_FIELD.items()
        },
    )


def http_filter(name: str, kind: str, **settings: Any) -> Json:
    """One of Envoy's own filters."""
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": _FILTERS + kind, **settings}}
