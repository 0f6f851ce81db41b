"""A compliance report as a page of HTML: one file that needs nothing else, for people and for printers."""

from collections.abc import Iterable, Sequence
from datetime import UTC
from html import escape
from typing import Any, Final

from lepton.auth.v1.compliance_pb2 import ComplianceFinding, CompliancePolicy
from lepton.auth.v1.compliance_service_pb2 import ComplianceReport

_STYLE: Final = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #1b1b1b }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid #ddd; padding: .35em .8em .35em 0; text-align: left; vertical-align: top }
code { font-size: .9em; overflow-wrap: anywhere } .open { color: #a40000 } .ok { color: #1a6b1a }
"""


def html(report: ComplianceReport) -> str:
    """The page. Everything that comes from outside is escaped; there are no scripts and nothing is fetched."""
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>Compliance of {escape(report.project)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>Compliance of {_code(report.project)}</h1>",
            *_summary(report),
            *_section("Rules", ("Policy", "Rule", "Mode", "Open", "Quarantined", "Exempted"), _rules(report)),
            *_section("Findings", ("Since", "What", "How", "To do", "Done", "Evidence"), _findings(report)),
            *_section("Exemptions", ("Exemption", "For", "Reason", "Until", "By"), _exemptions(report)),
            *_section("Audit records", ("No.", "Time", "Who", "What", "On", "Outcome", "SHA-256"), _evidence(report)),
            "</body></html>",
            "",
        )
    )


def open_findings(report: ComplianceReport) -> list[ComplianceFinding]:
    """Those that no exemption covers and that stand against an enforced policy."""
    return [
        each
        for each in report.findings
        if each.mode == CompliancePolicy.ENFORCE and each.action != ComplianceFinding.EXEMPTED
    ]


def _summary(report: ComplianceReport) -> Iterable[str]:
    count = len(open_findings(report))
    verdict = f'<b class="open">{count} open</b>' if count else '<b class="ok">none open</b>'
    yield f"<p>Findings against enforced policies: {verdict}; {len(report.findings) + report.omitted} in all.</p>"
    yield f"<p>Made {_time(report.create_time)} by policy revision {report.policy_revision}. Looked at by "
    looked = [f"{escape(service)} ({_time(report.looked[service])})" for service in sorted(report.looked)]
    yield f"{', '.join(looked) or 'no service yet'}.</p>"
    if report.audit_root:
        yield (
            f"<p>Audit log sealed up to record {report.audit_sequence}: root {_code(report.audit_root.hex())}, "
            f"signed by key {_code(report.audit_key_id)}; <code>lepton audit verify</code> checks it.</p>"
        )
    if report.evidence_hidden:
        yield "<p>Audit records are not shown to who made this report.</p>"
    if report.evidence_truncated:
        yield "<p>Older audit records were not searched; <code>lepton audit query --resource</code> finds them.</p>"


def _rules(report: ComplianceReport) -> Iterable[Sequence[str]]:
    modes = {policy.name: CompliancePolicy.Mode.Name(policy.mode) for policy in report.policies}
    for each in report.counts:
        shown = f'<span class="{"open" if each.open else "ok"}">{each.open}</span>'
        yield (
            _code(each.policy),
            _code(each.rule),
            escape(modes.get(each.policy, "")),
            shown,
            str(each.quarantined),
            str(each.exempted),
        )


def _findings(report: ComplianceReport) -> Iterable[Sequence[str]]:
    for each in report.findings:
        records = [f'<a href="#r{found.sequence}">{found.sequence}</a>' for found in report.evidence
                   if found.subject == each.resource]  # fmt: skip
        evidence = [*records, *map(_code, each.digests), f"policy {_code(each.policy_etag)}"]
        if each.resource_etag:
            evidence.append(f"revision {_code(each.resource_etag)}")
        yield (
            _time(each.create_time),
            f"{_code(each.resource)}<br>{_code(f'{each.policy} {each.rule}')}",
            escape(each.message),
            escape(each.fix),
            escape(ComplianceFinding.Action.Name(each.action))
            + (f"<br>{_code(each.exemption)}" * bool(each.exemption)),
            "<br>".join(evidence),
        )


def _exemptions(report: ComplianceReport) -> Iterable[Sequence[str]]:
    for each in report.exemptions:
        until = _time(each.expire_time)
        yield _code(each.name), _code(each.resource), escape(each.reason), until, escape(each.creator)


def _evidence(report: ComplianceReport) -> Iterable[Sequence[str]]:
    for each in sorted(report.evidence, key=lambda found: found.sequence):
        yield (
            f'<span id="r{each.sequence}">{each.sequence}</span>',
            _time(each.time),
            escape(each.actor),
            escape(each.action.rpartition("/")[2]),
            _code(each.subject),
            escape(each.outcome),
            _code(each.digest.hex()),
        )


def _section(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"<h2>{title}</h2>"
    body = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    if not body:
        yield "<p>None.</p>"
        return
    head = "".join(f"<th>{each}</th>" for each in columns)
    yield from (f"<table><thead><tr>{head}</tr></thead><tbody>", *body, "</tbody></table>")


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _time(stamp: Any) -> str:
    return str(stamp.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
