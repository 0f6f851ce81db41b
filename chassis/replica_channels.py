"""Channels to model servers: mutual TLS under the name of the server's node, with the certificate of the moment.

A model server is addressed by `host:port` and known by a name; one without a name speaks plaintext, which only a server
on this machine may.
"""

import ipaddress
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from chassis.credentials import Credentials, replica_host
from chassis.identity import Identity

MUTUAL: Final = "mutual"
"""What a slice says of itself under `TLS_FACT` when its server takes mutual TLS only."""
TLS_FACT: Final = "tls"
_KEPT: Final = 1
"""How many channels with former certificates are left open, for the calls that they carry: for one renewal."""


def open_channel(
    address: str, server_name: str, identity: Identity | None, options: Sequence[tuple[str, Any]] = ()
) -> grpc.aio.Channel:
    """A channel with the certificate of this moment; good for as long as that lives.

    Raises ValueError for a server elsewhere that has no name: nothing would prove whom the calls go to.
    """
    if not server_name:
        if not is_loopback(address):
            raise ValueError(f"the model server at {address} is on another machine and has no certificate")
        return grpc.aio.insecure_channel(address, options=options)
    if identity is None:
        raise ValueError(f"the model server at {address} takes mutual TLS only, and there is no identity to show")
    named = (("grpc.ssl_target_name_override", server_name), ("grpc.default_authority", server_name))
    return grpc.aio.secure_channel(address, identity.channel_credentials(), options=[*options, *named])


def server_name(node: str, facts: Mapping[str, str]) -> str:
    """The name in the certificate of a slice's model server; empty where it speaks plaintext.

    It follows from the node that the scheduler has given the slice, so that an agent speaks for its own node only.
    """
    return replica_host(node) if facts.get(TLS_FACT) == MUTUAL else ""


def is_loopback(address: str) -> bool:
    """Whether `host:port` is on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ReplicaChannel:
    """The channel to one server for longer than a certificate lives: opened anew whenever the identity is renewed."""

    def __init__(
        self, address: str, server_name: str, identity: Identity | None, options: Sequence[tuple[str, Any]] = ()
    ) -> None:
        self._address, self._server_name, self._identity, self._options = address, server_name, identity, options
        self._open: deque[grpc.aio.Channel] = deque()
        self._proof: Credentials | None = None

    async def now(self) -> grpc.aio.Channel:
        """The channel for calls that begin now."""
        proof = self._identity.credentials if self._identity is not None and self._server_name else None
        if not self._open or proof is not self._proof:
            self._open.append(open_channel(self._address, self._server_name, self._identity, self._options))
            self._proof = proof
            while len(self._open) > _KEPT + 1:
                await self._open.popleft().close()
        return self._open[-1]

    async def close(self) -> None:
        """Cancels what is under way."""
        while self._open:
            await self._open.popleft().close()
