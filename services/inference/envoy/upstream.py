"""Owns how Envoy speaks to who answers: TLS, what its endpoint is told, and what is told of it to the caller."""

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.inference.envoy.routes import Gateway

Json = dict[str, Any]

TYPE = "type.googleapis.com/"
HELD = "x-lepton-held"
ENGINE = "lepton-engine"
TOLD = "lepton"
"""Under it stands in an endpoint's metadata what is told of it, or to it alone; other endpoints do not see it."""
CERTIFICATE = "gateway-certificate"
ROOTS = "mesh-roots"
SOCKET_MATCH = "envoy.transport_socket_match"
PLAINTEXT: Json = {"plaintext": True}


def mutual_tls(gateway: Gateway) -> Json:
    """Every endpoint must prove the name that it has in the ledger; the gateway proves its own.

    Only what has no name is called in plaintext, and that is on this machine.
    """
    folder = gateway.directory
    context = {
        "@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [
                {"name": CERTIFICATE, "sds_config": file_source(folder / "sds.json")}
            ],
            "validation_context_sds_secret_config": {
                "name": ROOTS,
                "sds_config": file_source(folder / "sds_roots.json"),
            },
        },
        # The host name of the endpoint, and nothing else, is what its certificate must be for.
        "auto_host_sni": True,
        "auto_sni_san_validation": True,
    }
    raw = {"@type": TYPE + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}
    return {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        "transport_socket_matches": [
            {
                "name": "plaintext",
                "match": PLAINTEXT,
                "transport_socket": {"name": "envoy.transport_sockets.raw_buffer", "typed_config": raw},
            }
        ],
    }


def verified_tls(gateway: Gateway, name: str, roots: Path | None) -> Json:
    """TLS to who proves this host name or IP address to us, and asks us for nothing; roots None = the mesh's."""
    kind = "DNS" if _address(name) is None else "IP_ADDRESS"
    expected: Json = {"match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": name}}]}
    of_mesh = {"name": ROOTS, "sds_config": file_source(gateway.directory / "sds_roots.json")}
    validation: Json = (
        {"validation_context": {**expected, "trusted_ca": {"filename": str(roots)}}}
        if roots is not None
        else {
            "combined_validation_context": {
                "default_validation_context": expected,
                "validation_context_sds_secret_config": of_mesh,
            }
        }
    )
    context = {
        "@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2"],
            **validation,
        },
        **({"sni": name} if kind == "DNS" else {}),
    }
    return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def file_source(path: Path) -> Json:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def drop_unsampled_context() -> Json:
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
                            "on_match": {"action": _SKIP},
                        }
                    ]
                }
            },
        },
    }


def tell_lineage(lineage: Mapping[str, str]) -> Sequence[Json]:
    """What answered, in the trailing metadata of every answer; an answer without a message has no other headers."""
    told = {ENGINE: _of_endpoint("engine"), **lineage}
    mutations = [
        {"append": {"header": {"key": key, "value": told[key]}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
        for key in sorted(told)
    ]
    mutation = TYPE + "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
    of_trailers = {
        "name": "lineage",
        "typed_config": {"@type": mutation, "mutations": {"response_trailers_mutations": mutations}},
    }
    has_no_message = {
        "single_predicate": {
            "input": {
                "name": "grpc-status",
                "typed_config": {
                    "@type": TYPE + "envoy.type.matcher.v3.HttpResponseHeaderMatchInput",
                    "header_name": "grpc-status",
                },
            },
            "value_match": {"safe_regex": {"google_re2": {}, "regex": ".+"}},
        }
    }
    of_headers = {
        "name": "lineage-without-message",
        "typed_config": {
            "@type": TYPE + "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {
                "name": "envoy.filters.http.header_mutation",
                "typed_config": {"@type": mutation, "mutations": {"response_mutations": mutations}},
            },
            "xds_matcher": {
                "matcher_list": {
                    "matchers": [{"predicate": {"not_matcher": has_no_message}, "on_match": {"action": _SKIP}}]
                }
            },
        },
    }
    return of_trailers, of_headers


def _of_endpoint(key: str) -> str:
    """What stands in the metadata of the endpoint that a call goes to; nothing is sent where it has none."""
    return f"%UPSTREAM_METADATA({TOLD}:{key})%"


def tell_holder() -> Json:
    """Whom a call that is held is for, and that it has passed the gateway; to the holder only, no replica sees it."""
    header = {"header": {"key": HELD, "value": _of_endpoint("held")}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "name": "tell-holder",
        "typed_config": {
            "@type": TYPE + "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [{"append": header}]},
        },
    }


_SKIP: Json = {
    "name": "skip",
    "typed_config": {"@type": TYPE + "envoy.extensions.filters.common.matcher.action.v3.SkipFilter"},
}
CODEC: Json = {
    "name": "envoy.filters.http.upstream_codec",
    "typed_config": {"@type": TYPE + "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"},
}
