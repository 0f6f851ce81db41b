"""`lepton login --oidc` and its kin: the real commands, a real provider over TLS, the real auth service."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from lepton.cli.root import app
from lepton.profile import Profile, write
from services.auth.oidc.settings import GroupGrant
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.memory_kv import MemoryKV
from tests.harness.oidc import RunningProvider

pytestmark = pytest.mark.integration
Run = Callable[..., Coroutine[Any, Any, Any]]
PASSWORD = "correct horse battery"
PROJECT = "projects/acme"


@pytest_asyncio.fixture
async def auth(tmp_path: Path, provider: RunningProvider) -> AsyncIterator[RunningAuth]:
    grants = (GroupGrant(group="ml", role="roles/developer", project="acme"),)
    corp = provider.settings(
        create_users=True,
        match_email_domain="example.com",
        grants=grants,
        workload_audiences=("lepton-ci",),
        workload_subjects=("system:serviceaccount:",),
    )
    async with MemoryKV() as kv, running_auth(kv, tmp_path, oidc={"corp": corp}) as running:
        here = f"127.0.0.1:{running.ports()['client']}"
        nowhere = dict.fromkeys(("scheduler", "trainer", "inference", "gateway"), "127.0.0.1:1")
        write(
            tmp_path / "profile.toml",
            Profile(auth=here, **nowhere, trust_bundle=tmp_path / "ca.pem", project="acme", folder=tmp_path),
        )
        yield running


@pytest.fixture
def run(auth: RunningAuth, provider: RunningProvider, tmp_path: Path) -> Run:
    names = ("LEPTON_HOME", "LEPTON_API_KEY", "LEPTON_SERVICE_ACCOUNT", "LEPTON_ID_TOKEN_FILE", "LEPTON_PROJECT")
    given = {
        **dict.fromkeys(names),
        "LEPTON_PROFILE": str(tmp_path / "profile.toml"),
        "SSL_CERT_FILE": str(provider.ca_file),
    }

    async def invoke(*argv: str, stdin: str = "", **environment: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, app, list(argv), input=stdin, env={**given, **environment})

    return invoke


async def administrator(run: Run, auth: RunningAuth) -> None:
    done = await run("login", "--user", "admin", "--password-file", "-", stdin=f"{auth.password}\n")
    assert done.exit_code == 0, done.stderr


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch, provider: RunningProvider) -> Callable[..., list[str]]:
    """A person at the browser: what the page said at the end."""

    def use(login: str, tamper: Callable[[str], str] = str) -> list[str]:
        pages: list[str] = []

        def opened(url: str) -> bool:
            pages.append(provider.browse(tamper(url), login))
            return True

        monkeypatch.setattr("webbrowser.open", opened)
        return pages

    return use


async def test_a_person_signs_in_at_the_provider(
    run: Run, auth: RunningAuth, provider: RunningProvider, browser: Callable[..., list[str]]
) -> None:
    await administrator(run, auth)
    assert (await run("projects", "create", "acme")).exit_code == 0
    await provider.post(
        "/claims", {"alice": {"email": "alice@example.com", "email_verified": True, "groups": ["ml"], "name": "Alice"}}
    )
    pages = browser("alice")
    done = await run("login", "--oidc")
    assert done.exit_code == 0, done.stderr
    assert "signed in as users/alice" in done.stderr
    assert "You are signed in" in pages[0]
    assert "roles/developer" not in done.stdout
    shown = await run("whoami")
    assert shown.stdout.splitlines() == ["users/alice", "  developer in projects/acme"]


async def test_a_person_signs_in_on_another_device(run: Run, provider: RunningProvider, monkeypatch: Any) -> None:
    waits: list[float] = []

    async def approve(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 3:
            await provider.post("/approve", {"user": "alice"})

    monkeypatch.setattr("lepton.oidc.device.wait.__defaults__", (approve,))
    done = await run("login", "--device")
    assert done.exit_code == 0, done.stderr
    assert re.search(r"go to https://localhost:\d+/device and enter \S+", done.stderr)
    assert re.search(r"signed in as users/u-[0-9a-f]{8}", done.stderr)
    assert waits == [5.0, 5.0, 10.0]  # the provider said slow_down once


async def test_a_device_that_is_denied_is_told(run: Run, provider: RunningProvider, monkeypatch: Any) -> None:
    async def deny(_: float) -> None:
        await provider.post("/approve", {"user": "alice", "allowed": False})

    monkeypatch.setattr("lepton.oidc.device.wait.__defaults__", (deny,))
    done = await run("login", "--device")
    assert done.exit_code != 0
    assert "access_denied" in done.stderr


async def test_a_person_who_refuses_is_told(run: Run, browser: Callable[..., list[str]]) -> None:
    pages = browser("nobody")
    done = await run("login", "--oidc")
    assert done.exit_code != 0
    assert "access_denied" in done.stderr
    assert "the command line says why" in pages[0]


async def test_a_code_is_worth_nothing_without_the_verifier(run: Run, browser: Callable[..., list[str]]) -> None:
    """PKCE: the provider ties the code to the challenge of who began; another's challenge is refused."""
    browser("alice", lambda url: re.sub(r"code_challenge=[^&]+", "code_challenge=" + "A" * 43, url))
    done = await run("login", "--oidc")
    assert done.exit_code != 0
    assert "invalid_grant" in done.stderr


async def test_a_token_of_another_sign_in_is_refused(run: Run, browser: Callable[..., list[str]]) -> None:
    """The nonce: what the provider signs for somebody else's flow does not sign this one in."""
    browser("alice", lambda url: re.sub(r"nonce=[^&]+", "nonce=another", url))
    done = await run("login", "--oidc")
    assert done.exit_code != 0
    assert "Signing in failed" in done.stderr


async def test_an_id_token_from_a_file_signs_in_once(run: Run, provider: RunningProvider, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(await provider.mint(sub="sub-carol"))
    assert (await run("login", "--id-token-file", str(file))).exit_code == 0
    again = await run("login", "--id-token-file", str(file))
    assert again.exit_code != 0
    assert "Signing in failed" in again.stderr


async def test_an_administrator_links_and_unlinks(
    run: Run, auth: RunningAuth, provider: RunningProvider, tmp_path: Path
) -> None:
    await administrator(run, auth)
    made = await run("users", "create", "dora", "--password-file", "-", stdin=PASSWORD)
    assert made.exit_code == 0
    linked = await run("users", "link", "dora", "--provider", "corp", "--subject", "00u-dora")
    assert linked.exit_code == 0, linked.stderr
    file = tmp_path / "token"
    file.write_text(await provider.mint(sub="00u-dora"))
    done = await run("login", "--id-token-file", str(file))
    assert "signed in as users/dora" in done.stderr
    await administrator(run, auth)
    listed = (await run("users", "identities", "dora")).stdout
    assert "00u-dora" in listed
    name = re.search(r"users/dora/identities/[0-9a-f]{64}", listed)
    assert name is not None
    assert (await run("users", "unlink", name.group())).exit_code == 0
    assert "00u-dora" not in (await run("users", "identities", "dora")).stdout


async def test_a_workload_needs_no_key(run: Run, auth: RunningAuth, provider: RunningProvider, tmp_path: Path) -> None:
    await administrator(run, auth)
    assert (await run("projects", "create", "acme")).exit_code == 0
    assert (await run("service-accounts", "create", "robot")).exit_code == 0
    made = await run(
        "service-accounts", "trust", "robot",
        "--issuer", provider.issuer, "--subject", "system:serviceaccount:ci:*", "--audience", "lepton-ci",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    file = tmp_path / "token"
    file.write_text(await provider.mint(sub="system:serviceaccount:ci:deployer", aud="lepton-ci"))
    workload = {"LEPTON_SERVICE_ACCOUNT": f"{PROJECT}/serviceAccounts/robot", "LEPTON_ID_TOKEN_FILE": str(file)}
    assert (await run("whoami", "-o", "name", **workload)).stdout.strip() == workload["LEPTON_SERVICE_ACCOUNT"]
    assert (await run("whoami", "-o", "name")).stdout.strip() == "users/admin"  # nothing of it was kept
    done = await run("login", "--id-token-file", str(file), "--service-account", "robot")
    assert done.exit_code == 0, done.stderr
    assert (await run("whoami", "-o", "name")).stdout.strip() == workload["LEPTON_SERVICE_ACCOUNT"]
    await administrator(run, auth)
    assert "lepton-ci" in (await run("service-accounts", "trusts", "robot")).stdout
    assert (await run("service-accounts", "untrust", "robot")).exit_code == 0
    refused = await run("whoami", **workload)
    assert refused.exit_code != 0
    assert "Signing in failed" in refused.stderr


async def test_login_says_what_to_give(run: Run) -> None:
    for argv in ((), ("--oidc", "--user", "alice"), ("--service-account", "robot", "--oidc")):
        refused = await run("login", *argv)
        assert refused.exit_code == 2, argv
        assert "give one of" in refused.stderr or "needs --id-token-file" in refused.stderr
    unknown = await run("login", "--oidc", "--provider", "nobody")
    assert "knows no identity provider nobody" in unknown.stderr
