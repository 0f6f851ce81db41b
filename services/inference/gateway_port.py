"""A port that only the gateway calls: mutual TLS of the mesh, and nobody else's certificate will do."""

from typing import Any, Final

import grpc.aio

from chassis.identity import Identity

GATEWAY: Final = "service/gateway"


def add_gateway_port(server: grpc.aio.Server, address: str, identity: Identity | None) -> int:
    """The port; without an identity, as in tests, it is plaintext."""
    if identity is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, identity.server_credentials(require_client=True))


def own_name(identity: Identity | None) -> str:
    """The name under which the gateway knows this service: `inference`; empty for plaintext."""
    return identity.spiffe_id.rpartition("/")[2] if identity is not None else ""


def is_from_gateway(context: Any, identity: Identity | None) -> bool:
    """Whether the gateway's certificate was shown."""
    if identity is None:
        return True
    domain = identity.spiffe_id.partition("/service/")[0]
    shown = context.auth_context().get("peer_spiffe_id", ())
    return any(each.decode() == f"{domain}/{GATEWAY}" for each in shown)
