"""`lepton compliance`."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from lepton.auth.v1.compliance_pb2 import ComplianceFinding, CompliancePolicy
from lepton.cli import exits
from lepton.cli.columns import COMPLIANCE_EXEMPTIONS, COMPLIANCE_FINDINGS, COMPLIANCE_POLICIES, DATA_LABELS
from lepton.cli.command import command
from lepton.cli.output import as_dict
from lepton.cli.shell import Shell
from lepton.cli.spans import seconds
from lepton.compliance import collected, policy_file
from lepton.compliance.checking import checked
from lepton.compliance.report import html, open_findings

app = typer.Typer(
    name="compliance", help="Policies for data, models and deployments: who keeps them, who does not.",
    no_args_is_help=True,
)  # fmt: skip
policies = typer.Typer(name="policies", help="Show, create, change and delete policies.", no_args_is_help=True)
exemptions = typer.Typer(name="exemptions", help="Leave not to keep a policy, for a time.", no_args_is_help=True)
app.add_typer(policies)
app.add_typer(exemptions)

Organisation = Annotated[bool, typer.Option("--organisation", help="Of the whole organisation.")]
PolicyId = Annotated[str, typer.Argument(metavar="POLICY", help="Its id, or its whole name.")]
PolicyFile = Annotated[Path, typer.Option("--file", "-f", help="The policy: a .toml, .yaml or .json.")]


@command(policies, "list")
async def list_(shell: Shell, organisation: Organisation = False) -> int | None:
    """List the policies that a project must keep: its own and the organisation's."""
    async with shell.client() as client:
        shell.printer.many(await client.compliance.policies(project=_where(organisation)), COMPLIANCE_POLICIES)
    return None


@command(policies, "get")
async def get(shell: Shell, policy: PolicyId, organisation: Organisation = False) -> int | None:
    """Show a policy with its rules, as JSON unless told otherwise."""
    async with shell.client() as client:
        found = await client.compliance.policy(policy, project=_where(organisation))
    if shell.printer.is_for_people:
        shell.printer.document(as_dict(found))
    else:
        shell.printer.one(found, COMPLIANCE_POLICIES)
    return None


@command(policies, "create")
async def create(
    shell: Shell,
    policy_id: Annotated[str, typer.Argument(metavar="POLICY", help="The policy's id.")],
    file: PolicyFile,
    organisation: Organisation = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it.")] = False,
) -> int | None:
    """Create a policy; it is in force at once.

    \b
    lepton compliance policies create eu --file eu.toml --organisation --dry-run
    lepton compliance check --policy eu.toml        # what would be found by it
    lepton compliance policies create eu --file eu.toml --organisation

    \b
    A file has:
      mode: ENFORCE        # refuses; WARN only tells who asks, DRY_RUN only finds and reports
      remedy: REPORT       # QUARANTINE takes what exists already out of service
      rules:
      - id: region
        residency: {require_label: true}
      - id: licence
        license: {allowed: ["Apache-2.0", "MIT"]}

    \b
    Rules: residency {label, allowances, require_label}, license {kind, label, allowed, require_label},
    retention {kind, max_age, min_age}, deployment {deployments, members, stages, require_gate},
    promotion {stages, gates, tags, from_stage, members, four_eyes, lineage}.
    """
    policy = await asyncio.to_thread(_read, file)
    async with shell.client() as client:
        made = await client.compliance.create_policy(
            policy_id, policy, project=_where(organisation), validate_only=dry_run
        )
    shell.printer.one(made, COMPLIANCE_POLICIES)
    if dry_run:
        shell.note("checked only; nothing was created")
    return None


@command(policies, "update")
async def update(
    shell: Shell,
    policy: PolicyId,
    file: PolicyFile,
    organisation: Organisation = False,
    etag: Annotated[str, typer.Option(help="Only if the policy's etag is still this.")] = "",
) -> int | None:
    """Replace a policy by what a file says."""
    wanted = await asyncio.to_thread(_read, file)
    async with shell.client() as client:
        changed = await client.compliance.update_policy(policy, wanted, project=_where(organisation), etag=etag)
    shell.printer.one(changed, COMPLIANCE_POLICIES)
    return None


@command(policies, "delete")
async def delete(shell: Shell, policy: PolicyId, organisation: Organisation = False) -> int | None:
    """Delete a policy and the exemptions from it."""
    async with shell.client() as client:
        await client.compliance.delete_policy(policy, project=_where(organisation))
    return None


@command(exemptions, "list")
async def list_exemptions(shell: Shell, policy: PolicyId, organisation: Organisation = False) -> int | None:
    """List the exemptions from a policy, those that have run out too."""
    async with shell.client() as client:
        found = await client.compliance.exemptions(policy, project=_where(organisation))
    shell.printer.many(found, COMPLIANCE_EXEMPTIONS)
    return None


@command(exemptions, "create")
async def exempt(
    shell: Shell,
    policy: PolicyId,
    exemption_id: Annotated[str, typer.Argument(metavar="EXEMPTION", help="The exemption's id.")],
    resource: Annotated[str, typer.Option("--for", help="The whole name of what is exempted, with what lies in it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in every report.")],
    days: Annotated[str, typer.Option("--during", help="For how long: 30d, 12h; 366d at most.")] = "30d",
    rule: Annotated[list[str] | None, typer.Option(help="Only from this rule; may be repeated.")] = None,
    organisation: Organisation = False,
) -> int | None:
    """Exempt a resource from a policy, for a time, for a reason.

    lepton compliance exemptions create eu pilot --for projects/acme/models/digits --reason "pilot, ticket 4711"
    """
    until = datetime.now(UTC) + timedelta(seconds=seconds(days, "--during"))
    async with shell.client() as client:
        made = await client.compliance.exempt(
            policy, exemption_id, resource, reason=reason, until=until, rules=rule or (), project=_where(organisation)
        )
    shell.printer.one(made, COMPLIANCE_EXEMPTIONS)
    return None


@command(exemptions, "delete")
async def end(shell: Shell, name: Annotated[str, typer.Argument(help="The exemption's whole name.")]) -> int | None:
    """End an exemption before its time."""
    async with shell.client() as client:
        await client.compliance.end_exemption(name)
    return None


@command(app, "label")
async def label(
    shell: Shell,
    digest: Annotated[str, typer.Argument(help="The artifact: sha256:...")],
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="For example region=eu license=MIT.")],
) -> int | None:
    """Say what is known of a dataset or another artifact. Labels that are there are replaced, for which more is needed.

    lepton compliance label sha256:4f2a... region=eu license=CC-BY-4.0
    """
    pairs = dict(_pair(each) for each in labels)
    async with shell.client() as client:
        shell.printer.one(await client.compliance.label(digest, pairs), DATA_LABELS)
    return None


@command(app, "labels")
async def labels(shell: Shell) -> int | None:
    """List the labels of a project's artifacts."""
    async with shell.client() as client:
        shell.printer.many(await client.compliance.labels().all(), DATA_LABELS)
    return None


@command(app, "check")
async def check(
    shell: Shell,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A policy that is not in force yet, from a file; only that.")
    ] = None,
) -> int | None:
    """Look at all that exists in a project, here and now. The exit code is 1 if an enforced rule is not kept.

    lepton compliance check --policy eu.toml
    """
    draft = await asyncio.to_thread(_draft, policy) if policy is not None else None
    async with shell.client() as client:
        found = await collected.violations(client, await collected.rulebook(client, draft))
    findings = [each.finding(ComplianceFinding.REPORTED) for each in found]
    shell.printer.many(findings, COMPLIANCE_FINDINGS)
    if shell.printer.is_for_people:
        shell.note(f"{len(findings)} rules are not kept" if findings else "every rule is kept")
    return exits.FAILED if any(each.is_refused for each in found) else None


@command(app, "report")
async def report(
    shell: Shell,
    page: Annotated[Path | None, typer.Option("--html", help="Write the report as a page to this file.")] = None,
) -> int | None:
    """Show how a project stands, as the services last found it. The exit code is 1 if findings are open.

    \b
    lepton compliance report -o json > report.json
    lepton compliance report --html report.html
    """
    async with shell.client() as client:
        found = await client.compliance.report()
    if page is not None:
        await asyncio.to_thread(page.write_text, html(found), encoding="utf-8")
        shell.note(f"written to {page}")
    elif shell.printer.is_for_people:
        shell.printer.many(found.findings, COMPLIANCE_FINDINGS)
        shell.note(f"{len(open_findings(found))} open findings against enforced policies; {len(found.findings)} in all")
    else:
        shell.printer.document(as_dict(found))
    return exits.FAILED if open_findings(found) else None


def _where(organisation: bool) -> str | None:
    return "*" if organisation else None


def _read(path: Path) -> CompliancePolicy:
    try:
        return policy_file.read(path)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(f"{path} is no policy: {error}") from None


def _draft(path: Path) -> CompliancePolicy:
    draft = checked(_read(path), is_organisation=True)
    draft.name = f"compliancePolicies/{path.stem}"
    return draft


def _pair(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, value
