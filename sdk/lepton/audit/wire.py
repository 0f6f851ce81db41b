"""Conversions between the log's values and its messages."""

from lepton.audit.batch import Batch, Tombstone
from lepton.auth.v1 import audit_service_pb2 as pb


def batch_to_proto(batch: Batch) -> pb.AuditBatch:
    """A signed head."""
    return pb.AuditBatch(
        index=batch.index,
        first=batch.first,
        last=batch.last,
        previous=batch.previous,
        digest=batch.digest,
        root=batch.root,
        log_root=batch.log_root,
        begin_ns=batch.begin_ns,
        end_ns=batch.end_ns,
        sealed_ns=batch.sealed_ns,
        key_id=batch.key_id,
        signature=batch.signature,
    )


def batch_of(message: pb.AuditBatch) -> Batch:
    """The value of a signed head."""
    return Batch(
        index=message.index,
        first=message.first,
        last=message.last,
        previous=message.previous,
        digest=message.digest,
        root=message.root,
        log_root=message.log_root,
        begin_ns=message.begin_ns,
        end_ns=message.end_ns,
        sealed_ns=message.sealed_ns,
        key_id=message.key_id,
        signature=message.signature,
    )


def tombstone_to_proto(tombstone: Tombstone) -> pb.AuditTombstone:
    """A tombstone."""
    return pb.AuditTombstone(
        index=tombstone.index,
        first=tombstone.first,
        last=tombstone.last,
        root=tombstone.root,
        time_ns=tombstone.time_ns,
        policy=tombstone.policy,
        key_id=tombstone.key_id,
        signature=tombstone.signature,
    )


def tombstone_of(message: pb.AuditTombstone) -> Tombstone:
    """The value of a tombstone."""
    return Tombstone(
        index=message.index,
        first=message.first,
        last=message.last,
        root=message.root,
        time_ns=message.time_ns,
        policy=message.policy,
        key_id=message.key_id,
        signature=message.signature,
    )
