"""Certificates for the stack's etcd, which starts before there is a mesh: an authority of its own, made at every start.

The authority's key is dropped when the certificates are written, so that nobody can make another one. etcd and its
clients are started after that, and trust this authority only: a certificate of an earlier start is refused.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from chassis.clock import Clock
from chassis.credentials import signing_request
from chassis.etcd import TLS
from services.auth.ca import Authority, SigningRequest, Use

SERVER: Final = "etcd"
OPERATOR: Final = "operator"
"""Who looks at the store by hand, with etcdctl."""
LIFETIME: Final = timedelta(days=365)
_HOSTS: Final = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class EtcdCertificates:
    """The PEM files in a folder that only its owner reads."""

    folder: Path

    @property
    def ca(self) -> Path:
        """The authority that etcd and its clients trust."""
        return self.folder / "ca.pem"

    def certificate(self, holder: str) -> Path:
        """The certificate of etcd itself, a service or the operator."""
        return self.folder / f"{holder}.pem"

    def key(self, holder: str) -> Path:
        """Its private key."""
        return self.folder / f"{holder}.key"

    def tls(self, holder: str) -> TLS:
        """How this holder connects."""
        return TLS(ca=self.ca, certificate=self.certificate(holder), key=self.key(holder))

    def make(self, clients: tuple[str, ...], clock: Clock) -> None:
        """Writes a new authority's certificates for etcd, the operator and these clients; replaces what was there."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = Authority.create(clock, name="Lepton etcd CA")
        for holder in (SERVER, OPERATOR, *clients):
            key_pem, csr_pem = signing_request(_HOSTS if holder == SERVER else ())
            request = SigningRequest.parse(csr_pem.decode())
            # etcd dials its own address as a client does, so its certificate serves for both.
            use = Use.BOTH if holder == SERVER else Use.CLIENT
            issued = authority.sign(request, f"etcd/{holder}", LIFETIME, use=use)
            _write(self.key(holder), key_pem)
            _write(self.certificate(holder), issued.certificate_pem.encode())
        _write(self.ca, authority.trust_bundle_pem.encode())


def _write(path: Path, pem: bytes) -> None:
    aside = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pem)
    aside.rename(path)
