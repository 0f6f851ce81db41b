"""Keys and certificates as PEM: what a member of the mesh holds, and the requests with which it asks for more."""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

BACKDATED: Final = timedelta(minutes=5)
"""Certificates are valid from so long before they were issued, for clocks that are behind."""
REPLICAS: Final = "replica.lepton.local"
"""The domain of the names under which model servers are known: `<node>.replica.lepton.local`."""


def replica_host(node: str) -> str:
    """The name in the certificate of a node's model servers, by the node's id or resource name."""
    return f"{node.rpartition('/')[2]}.{REPLICAS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A private key, its certificate chain (leaf first) and the authorities to trust."""

    key_pem: bytes
    chain_pem: bytes
    bundle_pem: bytes

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate itself."""
        return x509.load_pem_x509_certificate(self.chain_pem)

    @property
    def not_before(self) -> datetime:
        """From when it is valid."""
        return self.leaf.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """Until when it is valid."""
        return self.leaf.not_valid_after_utc

    @property
    def issuer_key(self) -> bytes:
        """The id of the key that signed it; empty where it does not say."""
        try:
            named = self.leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        except x509.ExtensionNotFound:
            return b""
        return named.key_identifier or b""

    @property
    def spiffe_id(self) -> str:
        """The identity that it proves."""
        names = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What an earlier process kept; None when there is nothing that can be read."""
        try:
            pem = (folder / "identity.pem").read_bytes()
            key, separator, rest = pem.partition(b"-----BEGIN CERTIFICATE-----")
            chain, _, bundle = (separator + rest).partition(_BUNDLE)
            kept = cls(key_pem=key, chain_pem=chain, bundle_pem=bundle)
            serialization.load_pem_private_key(key, None)
            x509.load_pem_x509_certificate(bundle)
            return kept if kept.spiffe_id else None
        except (OSError, ValueError):
            return None

    def save(self, folder: Path) -> None:
        """Keep it for the next process: one file, readable by its owner only, replaced at once."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path, aside = folder / "identity.pem", folder / f".identity.{os.getpid()}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_line(self.key_pem) + _line(self.chain_pem) + _BUNDLE + self.bundle_pem)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)


@lru_cache(maxsize=4096)
def issued_at(certificate_pem: bytes) -> float:
    """When a certificate of the mesh's authority was issued, in Unix seconds."""
    return (x509.load_pem_x509_certificate(certificate_pem).not_valid_before_utc + BACKDATED).timestamp()


_BUNDLE = b"# trust bundle\n"


def _line(pem: bytes) -> bytes:
    return pem if pem.endswith(b"\n") else pem + b"\n"


def signing_request(hosts: Sequence[str]) -> tuple[bytes, bytes]:
    """A new key and the request for its certificate, as PEM; the hosts are the DNS names and IP addresses asked for."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, request.public_bytes(serialization.Encoding.PEM)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
