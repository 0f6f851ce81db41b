"""The certificate of this node's model servers: obtained when first needed, kept, renewed by servers that follow.

Triton reads its certificate and the roots it trusts once, when it starts. So these certificates live for days, prove a
server only, and a server whose certificate has grown old, or whose roots have been replaced, gets a successor.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chassis.clock import Clock
from chassis.credentials import Credentials, replica_host, signing_request
from chassis.identity import Identity
from chassis.logs import logger
from lepton.errors import LeptonError

log = logger(__name__)
_RENEWED_AT: Final = 2 / 3
"""Of its life; until the rest of it is over a server may be without auth."""
_LOOKS_S: Final = 30.0

Issue = Callable[[bytes], Awaitable[tuple[bytes, bytes]]]
"""Asks auth for a serving certificate, by a signing request: the chain and the roots to trust. Raises LeptonError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """What one server is started with, and who calls it from here."""

    credentials: Credentials
    member: Identity
    node: str

    @property
    def name(self) -> str:
        """Under which it is known to its clients."""
        return replica_host(self.node)

    def options(self, folder: Path) -> Sequence[str]:
        """Writes the files into a folder that only the agent reads; Triton's options that name them."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key, chain, roots = folder / "key.pem", folder / "certificate.pem", folder / "roots.pem"
        for path, pem in (
            (key, self.credentials.key_pem),
            (chain, self.credentials.chain_pem),
            (roots, self.credentials.bundle_pem),
        ):
            _write(path, pem)
        return (
            "--grpc-use-ssl=true",
            "--grpc-use-ssl-mutual=true",
            f"--grpc-server-cert={chain}",
            f"--grpc-server-key={key}",
            f"--grpc-root-cert={roots}",
        )


class ServingCertificate:
    """One certificate for all servers of a node."""

    def __init__(self, *, member: Identity, issue: Issue, node: str, folder: Path, clock: Clock) -> None:
        self._member, self._issue, self._node, self._folder, self._clock = member, issue, node, folder, clock
        self._kept = Credentials.load(folder)
        self._renewing = asyncio.Lock()

    async def for_server(self) -> ServerTls:
        """What to start a server with now. Raises LeptonError when there is none and auth gives none."""
        async with self._renewing:
            kept = self._kept
            if kept is None or self.is_stale(kept):
                try:
                    kept = await self._renewed()
                except LeptonError as error:
                    if kept is None or kept.not_after <= self._clock.now():
                        raise
                    log.warning("serving certificate not renewed", why=str(error), until=kept.not_after.isoformat())
        return ServerTls(credentials=kept, member=self._member, node=self._node)

    async def keep_forever(self) -> None:
        """Has one at hand, so that a server which starts needs nobody; for ever."""
        while True:
            try:
                await self.for_server()
            except LeptonError as error:
                log.warning("no serving certificate", why=str(error))
            await self._clock.sleep(_LOOKS_S)

    def is_stale(self, held: Credentials) -> bool:
        """Whether a server that was started with these should get a successor."""
        life = held.not_after - held.not_before
        if self._clock.now() >= held.not_before + life * _RENEWED_AT:
            return True
        member = self._member.credentials
        # Of another time they may differ because the server's are the newer ones.
        knows_more = member.not_before > held.not_before
        return knows_more and (member.bundle_pem != held.bundle_pem or member.issuer_key != held.issuer_key)

    async def _renewed(self) -> Credentials:
        key_pem, csr_pem = signing_request(())
        chain_pem, bundle_pem = await self._issue(csr_pem)
        self._kept = Credentials(key_pem=key_pem, chain_pem=chain_pem, bundle_pem=bundle_pem)
        self._kept.save(self._folder)
        log.info("serving certificate issued", spiffe_id=self._kept.spiffe_id, until=self._kept.not_after.isoformat())
        return self._kept


def _write(path: Path, pem: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pem)
