"""`lepton audit`."""

import asyncio
import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToJson, Parse, ParseError

from lepton.audit import exported
from lepton.audit.verify import Span
from lepton.auth.v1.audit_service_pb2 import AuditBatch, AuditRecord, VerifyAuditResponse
from lepton.cli import exits
from lepton.cli.columns import AUDIT, AUDIT_FINDINGS
from lepton.cli.command import command
from lepton.cli.output import as_dict
from lepton.cli.shell import Shell
from lepton.cli.spans import seconds

app = typer.Typer(name="audit", help="Show, check and export the record of what was done.", no_args_is_help=True)

Actor = Annotated[str, typer.Option(help="Only what this principal did: users/NAME, a service account, a SPIFFE id.")]
Resource = Annotated[str, typer.Option(help="Only this resource and what is below it.")]
Organisation = Annotated[bool, typer.Option("--organisation", help="All projects, and what belongs to none.")]
First = Annotated[int, typer.Option(min=0, help="The first sequence number; 0 = the first that there is.")]
Last = Annotated[int, typer.Option(min=0, help="The last sequence number; 0 = the end.")]


@command(app, "tail")
async def tail(
    shell: Shell,
    count: Annotated[int, typer.Option("--lines", "-n", min=0, max=1000, help="How many to begin with.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is done from now on.")] = False,
    actor: Actor = "",
    resource: Resource = "",
    organisation: Organisation = False,
) -> int | None:
    """Show the newest records.

    lepton audit tail --follow --project acme
    """
    project = "*" if organisation else None
    async with shell.client() as client:
        if follow:
            async with contextlib.aclosing(
                client.audit.tail(count, project=project, actor=actor, resource=resource)
            ) as records:
                async for record in records:
                    shell.printer.change(record, AUDIT)
        listing = client.audit.query(
            project=project, actor=actor, resource=resource, newest_first=True, page_size=max(1, count)
        )
        shell.printer.many(list(reversed(await _some(listing, count))), AUDIT)
    return None


@command(app, "query")
async def query(
    shell: Shell,
    since: Annotated[str, typer.Option(help="How far back: 30m, 6h, 7d, or a time as 2026-01-31T12:00:00+00:00.")] = "",
    until: Annotated[str, typer.Option(help="Up to when, written in the same way.")] = "",
    actor: Actor = "",
    action: Annotated[str, typer.Option(help="Only this method: CreateJob, or its whole name.")] = "",
    resource: Resource = "",
    outcome: Annotated[str, typer.Option(help="succeeded, refused, failed or interrupted.")] = "",
    trace_id: Annotated[str, typer.Option("--trace-id", help="Only what belongs to this trace.")] = "",
    newest: Annotated[bool, typer.Option("--newest", help="The newest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at the most.")] = 1000,
    organisation: Organisation = False,
) -> int | None:
    """Show the records that meet all conditions.

    lepton audit query --since 1d --outcome refused --organisation

    lepton audit query --resource projects/acme/jobs/digits -o json
    """
    async with shell.client() as client:
        listing = client.audit.query(
            project="*" if organisation else None,
            since=_time(since, "--since"),
            until=_time(until, "--until"),
            actor=actor,
            action=action,
            resource=resource,
            outcome=_outcome(outcome),
            trace_id=trace_id,
            newest_first=newest,
            page_size=min(limit, 1000),
        )
        shell.printer.many(await _some(listing, limit), AUDIT)
    return None


@command(app, "verify")
async def verify(
    shell: Shell,
    file: Annotated[str, typer.Argument(help="An exported log, to be checked without any service.")] = "",
    first: First = 0,
    last: Last = 0,
    known: Annotated[
        str,
        typer.Option(help="A file with a head seen earlier, from which the log must go on; the new one is kept there."),
    ] = "",
    key: Annotated[list[str] | None, typer.Option(help="With a file: the ids of the keys to trust.")] = None,
) -> int | None:
    """Check that nothing was edited, deleted, reordered or truncated; says where. The exit code is 1 if so.

    lepton audit verify --known ~/.lepton-audit-head.json

    lepton audit verify audit.jsonl --key 4c1f...
    """
    if file:
        answer = await asyncio.to_thread(_check_file, file, Span(first=first, last=last), key or [])
    else:
        before = await asyncio.to_thread(_known, known)
        async with shell.client() as client:
            answer = await client.audit.verify(first=first, last=last, known=before)
        if known and not answer.findings and answer.HasField("head"):
            await asyncio.to_thread(_keep, known, answer.head)
    if shell.printer.is_for_people:
        if answer.findings:
            shell.printer.many(answer.findings, AUDIT_FINDINGS)
        deleted = sum(each.last - each.first + 1 for each in answer.tombstones)
        keys = ", ".join(each.key_id for each in answer.keys)
        shell.note(f"{answer.checked} records checked of {answer.sequence}, {deleted} deleted by rule; keys: {keys}")
        shell.note("the log was tampered with" if answer.findings else "the log is whole")
    else:
        shell.printer.document(as_dict(answer))
    return exits.FAILED if answer.findings else None


@command(app, "export")
async def export(
    shell: Shell,
    file: Annotated[str, typer.Argument(help="Where to write it: JSON lines. It must not exist yet.")],
    first: First = 0,
    last: Last = 0,
) -> int | None:
    """Write the log with its signed heads and keys to a file, which `lepton audit verify FILE` checks."""
    path = Path(file)
    draft = path.with_name(f".{path.name}.part")
    if await asyncio.to_thread(path.exists):
        raise typer.BadParameter(f"{file} exists already")
    count = 0
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            async with shell.client() as client:
                async for part in client.audit.export(first=first, last=last):
                    exported.write_line(out, part)
                    count += len(part.batch.body.records) + len(part.end.records)
            out.flush()
            os.fsync(out.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    shell.note(f"{count} records written to {file}")
    return None


async def _some(listing: Any, count: int) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    async for record in listing:
        if len(records) >= count:
            break
        records.append(record)
    return records


def _check_file(file: str, span: Span, trusted: list[str]) -> VerifyAuditResponse:
    with Path(file).open() as lines:
        found = exported.read(lines)
    answer = VerifyAuditResponse(
        checked=found.records, sequence=found.log.head.sequence if found.log.head is not None else 0
    )
    for each in found.check(exported.ed25519(), trusted, span if span != Span(first=0) else None):
        kind = VerifyAuditResponse.Finding.Kind.ValueType(int(each.kind))
        answer.findings.add(kind=kind, first=each.first, last=each.last, message=each.what)
    for key_id, public_key in found.keys.items():
        answer.keys.add(key_id=key_id, public_key=public_key)
    for tombstone in found.log.tombstones.values():
        answer.tombstones.add(index=tombstone.index, first=tombstone.first, last=tombstone.last)
    return answer


def _known(file: str) -> AuditBatch | None:
    path = Path(file)
    if not file or not path.exists():
        return None
    try:
        return Parse(path.read_text(), AuditBatch())
    except ParseError as error:
        raise typer.BadParameter(f"{file} holds no head of the audit log: {error}") from None


def _keep(file: str, head: AuditBatch) -> None:
    draft = Path(file).with_name(f".{Path(file).name}.part")
    draft.write_text(MessageToJson(head))
    draft.rename(file)


def _time(text: str, option: str) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC) - timedelta(seconds=seconds(text, option))
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _outcome(text: str) -> AuditRecord.Outcome.ValueType:
    if not text:
        return AuditRecord.OUTCOME_UNSPECIFIED
    try:
        return AuditRecord.Outcome.Value(text.upper())
    except ValueError:
        raise typer.BadParameter("--outcome is succeeded, refused, failed or interrupted") from None
