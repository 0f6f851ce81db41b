"""The mesh's certificate authority: an ECDSA P-256 root that signs one-hour SPIFFE identities."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chassis.clock import Clock
from chassis.credentials import BACKDATED, REPLICAS
from lepton.errors import InvalidArgument

TRUST_DOMAIN: Final = "lepton.local"
ROOT_LIFETIME: Final = timedelta(days=3652)
SERVICES: Final = ("auth", "scheduler", "trainer", "inference", "gateway", "collector")
SPIFFE_PATH: Final = re.compile(r"(agent|service)/[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_DNS: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII
)
_MAX_NAMES: Final = 32


class Use(Enum):
    """What a certificate proves an identity for."""

    BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
    CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate that the authority signed."""

    spiffe_id: str
    certificate_pem: str
    expires: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRequest:
    """What is used of a PKCS#10 request: the key that it proves possession of, and the hosts that it asks for."""

    key: ec.EllipticCurvePublicKey
    hosts: tuple[str, ...]

    @classmethod
    def parse(cls, pem: str) -> Self:
        """The request in a PEM text; InvalidArgument (CSR_INVALID) when it is none that can be granted."""
        try:
            request = x509.load_pem_x509_csr(pem.encode())
            key, is_signed = request.public_key(), request.is_signature_valid
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise _invalid("is not a PKCS#10 signing request in PEM") from error
        if not is_signed:
            raise _invalid("is not signed by its own key")
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            raise _invalid("must have an ECDSA key on P-256 or P-384")
        try:
            names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return cls(key=key, hosts=())
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            raise _invalid("has a malformed subject alternative name") from error
        hosts = (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))
        return cls(key=key, hosts=hosts)


class Authority:
    """The root's certificate and private key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock

    @classmethod
    def create(cls, clock: Clock, name: str = "Lepton mesh CA") -> Self:
        """A new root, for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Lepton"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        now = clock.now()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + ROOT_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key, clock)

    @classmethod
    def load(cls, certificate_der: bytes, key_der: bytes, clock: Clock) -> Self:
        """The root as it was stored."""
        key = load_der_private_key(key_der, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the authority's key is not an elliptic-curve key")
        return cls(x509.load_der_x509_certificate(certificate_der), key, clock)

    @property
    def certificate_der(self) -> bytes:
        """For storage."""
        return self._certificate.public_bytes(Encoding.DER)

    @property
    def key_der(self) -> bytes:
        """For storage, sealed."""
        return self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of its certificate, in hexadecimal."""
        return self._certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def created(self) -> datetime:
        """When it was made."""
        return self._certificate.not_valid_before_utc + BACKDATED

    @property
    def expires(self) -> datetime:
        """When it stops being valid."""
        return self._certificate.not_valid_after_utc

    @property
    def trust_bundle_pem(self) -> str:
        """What members of the mesh trust."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    def sign(self, request: SigningRequest, spiffe_path: str, lifetime: timedelta, *, use: Use = Use.BOTH) -> Issued:
        """A certificate that binds an identity, and the hosts asked for, to the key of a request."""
        spiffe_id = f"spiffe://{TRUST_DOMAIN}/{spiffe_path}"
        now = self._clock.now()
        expires = min(now + lifetime, self._certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Lepton")]))
            .issuer_name(self._certificate.subject)
            .public_key(request.key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(expires)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(use.value), critical=False)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(spiffe_id), *_general_names(request.hosts, spiffe_path)]
                ),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = certificate.public_bytes(Encoding.PEM).decode()
        return Issued(spiffe_id=spiffe_id, certificate_pem=pem, expires=expires.replace(microsecond=0))


def _general_names(hosts: Iterable[str], spiffe_path: str) -> list[x509.GeneralName]:
    unique = sorted({host.lower() for host in hosts})
    if len(unique) > _MAX_NAMES:
        raise _invalid(f"names more than {_MAX_NAMES} hosts")
    own = spiffe_path.removeprefix("service/")
    names: list[x509.GeneralName] = []
    for host in unique:
        # Clients know a service by its name: nobody else may be known by it.
        if host.partition(".")[0] in SERVICES and host.partition(".")[0] != own:
            raise _invalid(f"asks for the name {host}, which belongs to another service")
        if host.endswith(f".{REPLICAS}") and spiffe_path != f"replica/{host.removesuffix(f'.{REPLICAS}')}":
            raise _invalid(f"asks for the name {host}, which belongs to a node's model servers")
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not _DNS.fullmatch(host):
                raise _invalid(f"asks for {host[:253]!r}, which is not a host name") from None
            names.append(x509.DNSName(host))
    return names


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _invalid(what: str) -> InvalidArgument:
    return InvalidArgument("CSR_INVALID", fields={"csr_pem": what})
