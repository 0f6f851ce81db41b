"""Channels to the other services: mutual TLS that follows the identity, deadlines and traces that follow the call."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import grpc
import grpc.aio

from chassis.call import current_call
from chassis.identity import Identity
from lepton.channel import Channel, Defaults, options

DEFAULT_TIMEOUT_S: Final = 10.0
_RETIRE_S: Final = 300.0  # how long calls in flight may go on over a channel with the previous certificate


class Peers:
    """One channel per peer service, made when first asked for."""

    def __init__(self, addresses: Mapping[str, str], identity: Identity) -> None:
        self._addresses = dict(addresses)
        self._identity = identity
        self._channels: dict[str, Channel] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        identity.on_change(self._rotate)

    def channel(self, service: str) -> Channel:
        """The channel to a service, for generated stubs; its calls raise lepton.errors."""
        known = self._channels.get(service)
        if known is None:
            defaults = Defaults(timeout_s=DEFAULT_TIMEOUT_S, remaining_s=_remaining_s)
            known = self._channels[service] = Channel(self._open(service), defaults)
        return known

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()

    def _open(self, service: str) -> grpc.aio.Channel:
        try:
            addresses = self._addresses[service]
        except KeyError:
            raise LookupError(f"no address for the peer {service!r}: add it to [peers] in the configuration") from None
        # The certificate must be the service's own, whatever the address says.
        chosen = options(("grpc.ssl_target_name_override", service))
        return grpc.aio.secure_channel(_target(addresses), self._identity.channel_credentials(), chosen)

    def _rotate(self) -> None:
        for service, channel in self._channels.items():
            old = channel.replace(self._open(service))
            task = asyncio.get_running_loop().create_task(_retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)


async def _retire(channel: grpc.aio.Channel) -> None:
    try:
        await asyncio.sleep(_RETIRE_S)
    finally:
        await channel.close(None)


def _target(addresses: str) -> str:
    hosts = [each.strip() for each in addresses.split(",")]
    if len(hosts) == 1:
        return hosts[0]
    # Several replicas: gRPC's own list resolver, balanced by round robin.
    return "ipv4:" + ",".join(hosts)


def _remaining_s() -> float | None:
    call = current_call()
    return call.remaining_s if call is not None else None
