"""What would let in more than was meant: auth does not start."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from chassis.config import ConfigError
from lepton.auth.v1 import federation_service_pb2 as pb
from services.auth.config import load
from services.auth.oidc.settings import ALGORITHMS
from tests.harness.auth import running_auth
from tests.harness.memory_kv import MemoryKV
from tests.harness.oidc import ROOT, Minter, RunningProvider

GOOD: dict[str, Any] = {"issuer": "https://login.example.com", "client_id": "lepton"}


def configured(folder: Path, **oidc: dict[str, Any]) -> Any:
    path = folder / "auth.toml"
    document = {
        "issuer": "https://lepton.test",
        "audience": "lepton",
        "kek_file": "kek",
        "bootstrap_password_file": "password",
        "etcd": {"endpoints": ["127.0.0.1:1"]},
        "identity": {"state_dir": "state", "trust_bundle": "ca.pem"},
        "oidc": oidc,
    }
    path.write_text(tomli_w.dumps(document))
    return load(path)


def test_a_provider_is_read(tmp_path: Path) -> None:
    grants = [{"group": "ml", "role": "roles/developer", "project": "acme"}]
    read = configured(tmp_path, corp={**GOOD, "grants": grants, "networks": ["10.0.0.0/8"]}).oidc["corp"]
    assert (read.issuer, read.client_id, read.grants[0].group) == (GOOD["issuer"], "lepton", "ml")
    assert [str(each) for each in read.rules.networks] == ["10.0.0.0/8"]
    assert configured(tmp_path).oidc == {}


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"client_id": "lepton"}, "missing setting oidc.corp.issuer"),
    ({**GOOD, "issuer": ""}, "oidc.corp.issuer"),
    ({"issuer": GOOD["issuer"]}, "client_id"),
    ({**GOOD, "client_id": ""}, "client_id"),
    ({**GOOD, "client_id": "", "workload_audiences": [""]}, "audience must not be empty"),
    ({**GOOD, "other_audiences": [""]}, "audience must not be empty"),
    ({**GOOD, "workload_audiences": ["lepton"]}, "workload_audiences must not hold client_id"),
    ({**GOOD, "issuer": "http://login.example.com"}, "only https"),
    ({**GOOD, "issuer": "https://login.example.com/?x=1"}, "no query"),
    ({**GOOD, "issuer": "https://user@login.example.com"}, "no user"),
    ({**GOOD, "issuer": "https://lepton.test"}, "auth's own issuer"),
    ({**GOOD, "algorithms": ["none"]}, "oidc.corp.algorithms"),
    ({**GOOD, "algorithms": ["HS256"]}, "oidc.corp.algorithms"),
    ({**GOOD, "algorithms": []}, "oidc.corp.algorithms"),
    ({**GOOD, "scopes": ["email"]}, "openid"),
    ({**GOOD, "max_age_s": 0}, "max_age_s"),
    ({**GOOD, "session_s": 1}, "session_s"),
    ({**GOOD, "match_email_domain": "*"}, "match_email_domain"),
    ({**GOOD, "match_email_domain": "com"}, "match_email_domain"),
    ({**GOOD, "networks": ["10.0.0.1/8"]}, "oidc.corp.networks"),
    ({**GOOD, "grants": [{"group": "", "role": "roles/admin"}]}, "oidc.corp.grants"),
    ({**GOOD, "grants": [{"group": "g", "role": "admin"}]}, "oidc.corp.grants"),
    ({**GOOD, "grants": [{"group": "g", "role": "roles/admin", "project": "projects/acme"}]}, "oidc.corp.grants"),
    (
        {**GOOD, "grants": [{"group": "g", "role": "roles/admin", "project": f"p{n}"} for n in range(33)]},
        "more than 32",
    ),
    ({**GOOD, "audience": "lepton"}, "unknown setting oidc.corp.audience"),
)


@pytest.mark.parametrize(("provider", "told"), WRONG)
def test_what_would_let_in_too_much_is_refused(tmp_path: Path, provider: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace(".", r"\.").replace("*", r"\*")):
        configured(tmp_path, corp=provider)


@pytest.mark.integration
async def test_auth_does_not_start_with_a_provider_without_audience(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        configured(tmp_path, corp={"issuer": GOOD["issuer"]})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.auth", "--config", str(tmp_path / "auth.toml"),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        _, told = await process.communicate()
    assert process.returncode != 0
    assert "oidc.corp needs client_id" in told.decode()


def test_two_providers_have_two_issuers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="that of oidc.corp already"):
        configured(tmp_path, corp=GOOD, again={**GOOD, "client_id": "other"})


def test_a_providers_name_is_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a provider's name"):
        configured(tmp_path, **{"Corp Inc": GOOD})


def test_no_algorithm_of_secrets_is_known() -> None:
    assert not [each for each in ALGORITHMS if each.startswith(("HS", "n"))]


@pytest.mark.integration
async def test_clients_learn_where_people_sign_in(tmp_path: Path, minter: Minter, provider: RunningProvider) -> None:
    oidc = {
        "corp": provider.settings(display_name="Corp", public_client_secret="installed"),
        "away": minter.settings(jwks_file="", networks=()),
        "ci": Minter(tmp_path, "https://ci.test").settings(client_id="", workload_audiences=("lepton-ci",)),
    }
    async with MemoryKV() as kv, running_auth(kv, tmp_path, oidc=oidc) as auth:
        answer = await (await auth.client()).federation.ListIdentityProviders(pb.ListIdentityProvidersRequest())
    away, corp = answer.identity_providers
    assert (away.provider, away.token_endpoint) == ("away", "")
    assert (corp.provider, corp.display_name, corp.public_client_secret) == ("corp", "Corp", "installed")
    assert corp.token_endpoint == f"{provider.issuer}/token"
    assert corp.device_authorization_endpoint == f"{provider.issuer}/device_authorization"
