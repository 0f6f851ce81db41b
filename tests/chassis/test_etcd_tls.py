"""EtcdKV over mutual TLS with a real etcd."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chassis.etcd import TLS, EtcdKV
from chassis.kv import Unavailable
from tests.harness.etcd import EtcdCluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A CA that exists for one test."""

    directory: Path
    name: str
    key: ec.EllipticCurvePrivateKey

    @property
    def path(self) -> Path:
        """The CA's certificate."""
        return self.directory / f"{self.name}.pem"

    def sign(self, subject: str, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=subject == self.name, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("etcd.lepton"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, subject: str) -> tuple[Path, Path]:
        """Files of a certificate and its key."""
        key = self.key if subject == self.name else ec.generate_private_key(ec.SECP256R1())
        certificate_path, key_path = self.directory / f"{subject}.pem", self.directory / f"{subject}-key.pem"
        certificate_path.write_bytes(self.sign(subject, key.public_key()).public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate_path, key_path


def authority(directory: Path, name: str) -> Authority:
    made = Authority(directory=directory, name=name, key=ec.generate_private_key(ec.SECP256R1()))
    made.issue(name)
    return made


@pytest.mark.integration
async def test_only_certificates_of_the_right_authority_are_served(tmp_path: Path) -> None:
    ours, theirs = authority(tmp_path, "ours"), authority(tmp_path, "theirs")
    server_certificate, server_key = ours.issue("server")
    certificate, key = ours.issue("client")
    wrong_certificate, wrong_key = theirs.issue("intruder")
    extra = [
        *(f"--cert-file={server_certificate}", f"--key-file={server_key}"),
        *(f"--trusted-ca-file={ours.path}", "--client-cert-auth"),
    ]
    async with EtcdCluster(tmp_path / "etcd", scheme="https", extra=extra) as etcd:
        tls = TLS(ca=ours.path, certificate=certificate, key=key)
        async with EtcdKV(etcd.endpoints, tls) as kv:
            await kv.put("/a", b"1")
        async with EtcdKV(
            etcd.endpoints, TLS(ca=ours.path, certificate=certificate, key=key, server_name="etcd.lepton")
        ) as kv:
            assert await kv.get("/a") is not None
        refused = [
            TLS(ca=theirs.path, certificate=certificate, key=key),
            TLS(ca=ours.path, certificate=wrong_certificate, key=wrong_key),
            TLS(ca=ours.path),
            TLS(ca=ours.path, certificate=certificate, key=key, server_name="elsewhere"),
            None,
        ]
        for wrong in refused:
            async with EtcdKV(etcd.endpoints, wrong, timeout_s=0.5) as kv:
                with pytest.raises(Unavailable):
                    await kv.get("/a")


def test_a_certificate_without_its_key_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        TLS(ca=tmp_path, certificate=tmp_path).credentials()
