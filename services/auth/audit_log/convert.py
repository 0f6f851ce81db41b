"""Conversions of records and findings; batches and tombstones are converted by lepton.audit.wire."""

from lepton.audit.record import Outcome, Record, clean
from lepton.audit.verify import Finding
from lepton.auth.v1 import audit_service_pb2 as pb
from lepton.internal.v1.audit_feed_pb2 import AuditEntry


def record_to_proto(record: Record, *, whole: bool) -> pb.AuditRecord:
    """A record; without its links for those who see one project only: they would tell of other projects' records."""
    message = pb.AuditRecord(
        sequence=record.sequence,
        actor=record.actor,
        action=record.action,
        resource=record.resource,
        outcome=pb.AuditRecord.Outcome.ValueType(int(record.outcome)),
        trace_id=record.trace_id,
        source=record.source,
        service=record.service,
        policy_revision=record.policy_revision,
        reason=record.reason,
        count=record.count,
    )
    message.time.FromNanoseconds(record.time_ns)
    if whole:
        message.digest, message.previous = record.digest, record.previous
    return message


def record_of(entry: AuditEntry, service: str) -> Record:
    """What a service hands over, as a record. Nothing is taken on trust but what it says of its own calls."""
    known = {int(each) for each in Outcome}
    return Record(
        time_ns=max(0, entry.time_ns),
        policy_revision=max(0, entry.policy_revision),
        count=max(1, entry.count),
        outcome=Outcome(entry.outcome) if entry.outcome in known else Outcome.FAILED,
        trace_id=clean(entry.trace_id),
        service=clean(service),
        actor=clean(entry.actor),
        action=clean(entry.action),
        resource=clean(entry.resource),
        source=clean(entry.source),
        reason=clean(entry.reason),
    )


def finding_to_proto(finding: Finding) -> pb.VerifyAuditResponse.Finding:
    """A finding."""
    kind = pb.VerifyAuditResponse.Finding.Kind.ValueType(int(finding.kind))
    return pb.VerifyAuditResponse.Finding(kind=kind, first=finding.first, last=finding.last, message=finding.what)
