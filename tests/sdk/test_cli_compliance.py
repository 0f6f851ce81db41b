"""`lepton compliance` against the real auth service; and the page that a report becomes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest_asyncio
from typer.testing import CliRunner

from lepton.auth.v1.compliance_pb2 import ComplianceFinding, CompliancePolicy
from lepton.auth.v1.compliance_service_pb2 import ComplianceReport
from lepton.cli import exits
from lepton.cli.root import app
from lepton.compliance import policy_file
from lepton.compliance.checking import checked
from lepton.compliance.report import html
from lepton.compliance.rules import RULES
from lepton.internal.v1.compliance_feed_pb2 import ReportFindingsRequest
from lepton.profile import Profile, write
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.memory_kv import MemoryKV

Run = Callable[..., Coroutine[Any, Any, Any]]
DIGEST = "sha256:" + "a" * 64


@pytest_asyncio.fixture
async def auth(tmp_path: Path) -> AsyncIterator[RunningAuth]:
    async with MemoryKV() as kv, running_auth(kv, tmp_path) as running:
        here = f"127.0.0.1:{running.ports()['client']}"
        nowhere = dict.fromkeys(("scheduler", "trainer", "inference", "gateway"), "127.0.0.1:1")
        profile = Profile(auth=here, **nowhere, trust_bundle=tmp_path / "ca.pem", project="acme", folder=tmp_path)
        write(tmp_path / "profile.toml", profile)
        yield running


@pytest_asyncio.fixture
async def run(auth: RunningAuth, tmp_path: Path) -> Run:
    """Run a command, signed in as the administrator."""
    cleared = dict.fromkeys(("LEPTON_HOME", "LEPTON_API_KEY", "LEPTON_PROJECT", "LEPTON_TRACE"))
    given = {**cleared, "LEPTON_PROFILE": str(tmp_path / "profile.toml")}

    async def invoke(*argv: str, stdin: str = "") -> Any:
        return await asyncio.to_thread(CliRunner().invoke, app, list(argv), input=stdin, env=given)

    await invoke("login", "--user", "admin", "--password-file", "-", stdin=f"{auth.password}\n")
    assert (await invoke("projects", "create", "acme")).exit_code == 0
    return invoke


def example() -> str:
    """The file that the documentation of the format shows."""
    return "\n".join(line.removeprefix("    ") for line in (policy_file.__doc__ or "").splitlines()[2:])


def test_the_documented_file_is_a_policy_of_every_kind_of_rule(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(example())
    policy = checked(policy_file.read(file), is_organisation=True)
    assert {rule.WhichOneof("kind") for rule in policy.rules} == set(RULES)


async def test_policies_are_checked_created_changed_and_deleted(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "eu.toml"
    file.write_text(example())
    tried = await run("compliance", "policies", "create", "eu", "--file", str(file), "--organisation", "--dry-run")
    assert (tried.exit_code, "nothing was created" in tried.stderr) == (0, True), tried.stderr
    assert (await run("compliance", "policies", "list", "-o", "name")).stdout == ""
    made = await run("compliance", "policies", "create", "eu", "--file", str(file), "--organisation")
    assert made.exit_code == 0, made.stderr
    assert (await run("compliance", "policies", "list", "-o", "name")).stdout == "compliancePolicies/eu\n"
    shown = json.loads((await run("compliance", "policies", "get", "eu", "--organisation")).stdout)
    assert [rule["id"] for rule in shown["rules"]] == ["region", "licence", "checkpoints", "production", "gates"]
    file.with_suffix(".json").write_text('{"mode": "WARN", "rules": [{"id": "x", "residency": {}}]}')
    changed = await run(
        "compliance", "policies", "update", "eu", "-f", str(file.with_suffix(".json")), "--organisation", "-o", "json"
    )
    assert json.loads(changed.stdout)["mode"] == "WARN", changed.stderr
    file.with_suffix(".yaml").write_text("rules: [{id: x, license: {allowed: [nonsense]}}]")
    refused = await run("compliance", "policies", "create", "own", "-f", str(file.with_suffix(".yaml")))
    assert refused.exit_code == 13
    assert "compliance_policy.rules[0].license.allowed[0]" in refused.stderr
    file.write_text("modus = 3")
    assert (await run("compliance", "policies", "create", "own", "-f", str(file))).exit_code == exits.USAGE
    assert (await run("compliance", "policies", "delete", "eu", "--organisation")).exit_code == 0


async def test_labels_exemptions_and_the_report(run: Run, auth: RunningAuth, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"mode": "ENFORCE", "rules": [{"id": "region", "residency": {}}]}')
    assert (await run("compliance", "policies", "create", "own", "-f", str(file))).exit_code == 0
    labelled = await run("compliance", "label", DIGEST, "region=eu", "license=MIT")
    assert labelled.exit_code == 0, labelled.stderr
    assert (await run("compliance", "label", DIGEST, "region=us")).exit_code == 0  # again: replaced
    assert "region=us" in (await run("compliance", "labels")).stdout
    assert (await run("compliance", "label", DIGEST, "region")).exit_code == exits.USAGE
    given = ("--for", "projects/acme/jobs/j", "--reason", "pilot")
    kept = await run("compliance", "exemptions", "create", "own", "pilot", *given, "--during", "30d", "-o", "name")
    assert kept.stdout == "projects/acme/compliancePolicies/own/exemptions/pilot\n", kept.stderr
    assert "pilot" in (await run("compliance", "exemptions", "list", "own")).stdout
    assert (await run("compliance", "report")).exit_code == 0  # nothing open
    peer = await auth.peer(await auth.join("service/trainer"))
    finding = ComplianceFinding(
        name="projects/acme/complianceFindings/f1",
        policy="projects/acme/compliancePolicies/own",
        rule="region",
        mode=CompliancePolicy.ENFORCE,
        resource="projects/acme/jobs/<script>alert(1)</script>",
        message="is <b>elsewhere</b>",
        action=ComplianceFinding.REPORTED,
        digests=[DIGEST],
    )
    await peer.compliance_feed.ReportFindings(ReportFindingsRequest(parent="projects/acme", findings=[finding]))
    told = await run("compliance", "report", "-o", "json")
    assert told.exit_code == exits.FAILED
    report = json.loads(told.stdout)
    assert [each["message"] for each in report["findings"]] == ["is <b>elsewhere</b>"]
    assert any(each["action"] == "compliance.found" for each in report["evidence"])
    shown = await run("compliance", "report")
    assert "ENFORCE" in shown.stdout
    assert "1 open findings against enforced policies; 1 in all" in shown.stderr
    page = tmp_path / "report.html"
    assert (await run("compliance", "report", "--html", str(page))).exit_code == exits.FAILED
    text = page.read_text()
    assert DIGEST in text
    assert "1 open" in text
    assert (await run("compliance", "exemptions", "delete", kept.stdout.strip())).exit_code == 0


class Tags(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_everything_as_text() -> None:
    evil = "<script>alert('x')</script><img src=x onerror=y>\"'&"
    report = ComplianceReport(project=evil, audit_root=b"\1" * 32, audit_key_id=evil)
    report.policies.add(name=evil, mode=CompliancePolicy.ENFORCE)
    report.counts.add(policy=evil, rule=evil, open=1)
    report.findings.add(policy=evil, rule=evil, resource=evil, message=evil, fix=evil, digests=[evil], exemption=evil)
    report.exemptions.add(name=evil, resource=evil, reason=evil, creator=evil)
    report.evidence.add(subject=evil, actor=evil, action=evil, outcome=evil, sequence=7)
    report.looked[evil].GetCurrentTime()
    seen = Tags(html(report))
    assert not {"script", "img"} & set(seen.names)
    assert seen.text.count(evil) >= 15
    control = Tags(html(report).replace("&lt;", "<").replace("&gt;", ">"))
    assert {"script", "img"} <= set(control.names)
