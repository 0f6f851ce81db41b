"""The identity of a service or agent in the mesh: its certificate, obtained once, renewed without a restart."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import grpc

from chassis.clock import Clock, SystemClock
from chassis.credentials import Credentials, signing_request
from chassis.logs import logger
from lepton.errors import LeptonError

log = logger(__name__)


class Issuer(Protocol):
    """Signs certificates: the auth service, or in auth itself its own authority."""

    async def issue(self, join_token: str, csr_pem: bytes) -> tuple[bytes, bytes]:
        """The chain and the trust bundle for a first certificate."""
        ...

    async def renew(self, csr_pem: bytes, current: Credentials) -> tuple[bytes, bytes]:
        """The chain and the trust bundle for the next certificate."""
        ...


class IdentityError(Exception):
    """There is no valid certificate and no way to get one; the message says what to do."""


class Identity:
    """Holds the present credentials and tells whoever listens when they are replaced."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        issuer: Issuer | None = None,
        hosts: tuple[str, ...] = (),
        folder: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.credentials = credentials
        self._issuer = issuer
        self._hosts = hosts
        self._folder = folder
        self._clock = clock or SystemClock()
        self._listeners: list[Callable[[], None]] = []

    @classmethod
    async def obtain(
        cls, *, issuer: Issuer, join_token: str, hosts: tuple[str, ...], folder: Path, clock: Clock | None = None
    ) -> "Identity":
        """The identity kept in the folder when it is still valid, else a new one for the join token."""
        clock = clock or SystemClock()
        kept = Credentials.load(folder)
        if kept is not None and kept.not_after > clock.now():
            return cls(kept, issuer=issuer, hosts=hosts, folder=folder, clock=clock)
        if not join_token:
            state = "has expired" if kept is not None else "does not exist"
            raise IdentityError(
                f"the certificate in {folder} {state} and there is no join token: "
                "make one with `python -m services.auth join-token` and set identity.join_token_file"
            )
        key_pem, csr_pem = signing_request(hosts)
        chain_pem, bundle_pem = await issuer.issue(join_token, csr_pem)
        credentials = Credentials(key_pem=key_pem, chain_pem=chain_pem, bundle_pem=bundle_pem)
        credentials.save(folder)
        log.info("identity issued", spiffe_id=credentials.spiffe_id, until=credentials.not_after.isoformat())
        return cls(credentials, issuer=issuer, hosts=hosts, folder=folder, clock=clock)

    @property
    def spiffe_id(self) -> str:
        """Who this process is."""
        return self.credentials.spiffe_id

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call this whenever the credentials have been replaced."""
        self._listeners.append(listener)

    def replace(self, credentials: Credentials) -> None:
        """Use these credentials from now on."""
        self.credentials = credentials
        if self._folder is not None:
            credentials.save(self._folder)
        for listener in self._listeners:
            listener()

    async def renew_forever(self) -> None:
        """Replace the certificate when two thirds of its life are over; keep trying while it is refused."""
        pause_s, rest_s = 1.0, 0.0
        while True:
            await self._clock.sleep(max(rest_s, self._until_renewal_s()))
            try:
                await self.renew()
                # When our clock and auth's disagree, even a new certificate may look due: never renew without a rest.
                pause_s, rest_s = 1.0, max(1.0, self._life_s() / 10)
            except (LeptonError, grpc.RpcError, OSError) as error:
                log.warning("renewal failed", error_class=type(error).__name__, error=str(error), retry_s=pause_s)
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, 60.0)

    async def renew(self) -> None:
        """Get the next certificate, with a new key."""
        if self._issuer is None:
            return
        key_pem, csr_pem = signing_request(self._hosts)
        chain_pem, bundle_pem = await self._issuer.renew(csr_pem, self.credentials)
        self.replace(replace(self.credentials, key_pem=key_pem, chain_pem=chain_pem, bundle_pem=bundle_pem))
        log.info("identity renewed", spiffe_id=self.spiffe_id, until=self.credentials.not_after.isoformat())

    def server_credentials(self, *, require_client: bool) -> grpc.ServerCredentials:
        """TLS for a listener; every handshake uses the credentials of that moment."""
        configured: Credentials | None = None

        def configuration() -> grpc.ServerCertificateConfiguration | None:
            nonlocal configured
            current = self.credentials
            if current is configured:
                return None
            configured = current
            return grpc.ssl_server_certificate_configuration(
                [(current.key_pem, current.chain_pem)], current.bundle_pem if require_client else None
            )

        fetch: Any = configuration  # the stubs do not know that None means unchanged
        return grpc.dynamic_ssl_server_credentials(fetch(), fetch, require_client_authentication=require_client)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Mutual TLS for a channel, with the credentials of this moment."""
        current = self.credentials
        return grpc.ssl_channel_credentials(current.bundle_pem, current.key_pem, current.chain_pem)

    def _until_renewal_s(self) -> float:
        renew_at = self.credentials.not_before + timedelta(seconds=self._life_s() * 2 / 3)
        return max(0.0, (renew_at - self._clock.now()).total_seconds())

    def _life_s(self) -> float:
        return (self.credentials.not_after - self.credentials.not_before).total_seconds()
