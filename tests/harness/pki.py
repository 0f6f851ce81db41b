"""A certificate authority for tests: SPIFFE identities, valid, expired or foreign, and signed access tokens."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from time import time
from typing import Any
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from joserfc import jwt
from joserfc.jwk import OKPKey

from chassis.credentials import Credentials

TRUST_DOMAIN = "lepton.local"


class Authority:
    """Signs certificates for the mesh of one test."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def bundle_pem(self) -> bytes:
        """The authority's certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        path: str,
        *,
        hosts: Sequence[str] = (),
        valid_from: timedelta = timedelta(hours=-1),
        valid_for: timedelta = timedelta(hours=1),
    ) -> Credentials:
        """Credentials for `service/<name>` or `agent/<node>`."""
        key = ec.generate_private_key(ec.SECP256R1())
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        names = [x509.DNSName("localhost"), x509.DNSName(path.rpartition("/")[2]), *map(x509.DNSName, hosts)]
        chain_pem = self._sign(key.public_key(), path, names, valid_from, valid_for)
        return Credentials(key_pem=key_pem, chain_pem=chain_pem, bundle_pem=self.bundle_pem)

    def sign_request(self, csr_pem: bytes, path: str, valid_for: timedelta = timedelta(hours=1)) -> bytes:
        """The chain for a signing request, as the auth service would issue it."""
        request = x509.load_pem_x509_csr(csr_pem)
        asked = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [x509.DNSName(name) for name in asked.get_values_for_type(x509.DNSName)]
        return self._sign(request.public_key(), path, names, timedelta(0), valid_for)

    def _sign(
        self, key: Any, path: str, names: Sequence[x509.DNSName], valid_from: timedelta, valid_for: timedelta
    ) -> bytes:
        now = datetime.now(UTC)
        spiffe = x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{path}")
        hosts = [*names, x509.IPAddress(ip_address("127.0.0.1")), spiffe]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid_from)
            .not_valid_after(now + valid_for)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )


class TokenSigner:
    """Signs access tokens as the auth service does."""

    def __init__(self, issuer: str = "https://lepton.test", audience: str = "lepton") -> None:
        self.issuer = issuer
        self.audience = audience
        self._key = OKPKey.generate_key("Ed25519", {"kid": uuid4().hex, "use": "sig"})

    @property
    def jwks(self) -> dict[str, Any]:
        """The public keys."""
        return {"keys": [self._key.as_dict(private=False)]}

    def token(self, subject: str, **claims: Any) -> str:
        """A token; a claim of None is left out."""
        now = int(time())
        full = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "jti": uuid4().hex,
            "sid": "session-" + subject,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            **claims,
        }
        header = {"alg": "EdDSA", "kid": self._key.kid}
        chosen = {name: value for name, value in full.items() if value is not None}
        return jwt.encode(header, chosen, self._key, algorithms=["EdDSA"])
