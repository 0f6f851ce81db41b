"""The certificates of the stack's etcd: made at every start, by an authority that nobody keeps."""

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from chassis.clock import SystemClock
from chassis.etcd import TLS, EtcdKV
from chassis.kv import Unavailable
from deploy.local import stack
from deploy.local.etcd_certificates import OPERATOR, SERVER, EtcdCertificates
from deploy.local.home import Home
from tests.harness.etcd import EtcdCluster

CLIENTS = ("auth", "scheduler")


def test_only_its_owner_reads_them_and_the_authoritys_key_is_not_among_them(tmp_path: Path) -> None:
    made = EtcdCertificates(tmp_path / "etcd")
    made.make(CLIENTS, SystemClock())
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    holders = {SERVER, OPERATOR, *CLIENTS}
    wanted = {"ca.pem", *(f"{name}.pem" for name in holders), *(f"{name}.key" for name in holders)}
    assert {path.name for path in made.folder.iterdir()} == wanted
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.folder.iterdir()} == {0o600}
    leaf = x509.load_pem_x509_certificate(made.certificate("auth").read_bytes())
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH}


@pytest.mark.integration
async def test_members_and_clients_of_this_start_are_let_in_and_nobody_else(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    made, former = EtcdCertificates(home.etcd_certificates), EtcdCertificates(tmp_path / "former")
    for each in (former, made):
        each.make(CLIENTS, SystemClock())
    own, key = made.certificate(SERVER), made.key(SERVER)
    extra = [
        *(f"--cert-file={own}", f"--key-file={key}", "--client-cert-auth", f"--trusted-ca-file={made.ca}"),
        *(f"--peer-cert-file={own}", f"--peer-key-file={key}", "--peer-client-cert-auth"),
        f"--peer-trusted-ca-file={made.ca}",
    ]
    async with EtcdCluster(tmp_path / "etcd", scheme="https", extra=extra) as etcd:
        async with EtcdKV(etcd.endpoints, made.tls("auth")) as kv:
            await kv.put("/a", b"1")
        refused = {
            "a former start's": TLS(ca=made.ca, certificate=former.certificate("auth"), key=former.key("auth")),
            "none": TLS(ca=made.ca),
            "plaintext": None,
        }
        for tls in refused.values():
            async with EtcdKV(etcd.endpoints, tls, timeout_s=0.5) as kv:
                with pytest.raises(Unavailable):
                    await kv.get("/a")


def test_the_stacks_etcd_asks_both_clients_and_members_for_them(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    etcd = next(each for step in stack.plan(home) if isinstance(step, list) for each in step if each.name == "etcd")
    assert {"--client-cert-auth", "--peer-client-cert-auth"} <= set(etcd.argv)
    assert not [each for each in etcd.argv if "http://" in each]


@pytest.mark.parametrize(("ca", "certificate"), [("", "c.pem"), ("", "")])
def test_a_certificate_without_etcds_authority_is_a_mistake(ca: str, certificate: str) -> None:
    if not certificate:
        assert TLS.of_files(ca, certificate, "") is None
        return
    with pytest.raises(ValueError, match="CA too"):
        TLS.of_files(ca, certificate, "c.key")
