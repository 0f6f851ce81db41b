"""Owns the gateway's key and the roots that it trusts, as Envoy reads them."""

from services.inference.envoy.routes import Gateway
from services.inference.envoy.upstream import CERTIFICATE, ROOTS, TYPE, Json, file_source


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


def server_tls(gateway: Gateway) -> Json:
    """HTTP/2 over TLS, under the gateway's certificate."""
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
