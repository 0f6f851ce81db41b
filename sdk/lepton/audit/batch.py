"""Sealed batches and tombstones: what is signed, as canonical bytes."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lepton.audit.record import Record
from lepton.audit.tree import Frontier, root_of

_BATCH: Final = b"lepton audit batch 1\0"
_TOMBSTONE: Final = b"lepton audit tombstone 1\0"
_BATCH_BODY: Final = struct.Struct(">QQQ32s32s32s32sqqq")
_TOMBSTONE_BODY: Final = struct.Struct(">QQQ32sq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The signed head over one batch of records, and over all batches up to it."""

    index: int
    first: int  # sequence numbers
    last: int
    previous: bytes  # the digest of the record before the first
    digest: bytes  # of the last
    root: bytes  # of the tree over the batch's records
    log_root: bytes  # of the tree over the roots of all batches so far
    begin_ns: int  # the earliest and the latest time of its records
    end_ns: int
    sealed_ns: int
    key_id: str = ""
    signature: bytes = b""

    def signed(self) -> bytes:
        """What the signature is over."""
        body = _BATCH_BODY.pack(
            self.index, self.first, self.last, self.previous, self.digest, self.root, self.log_root,
            self.begin_ns, self.end_ns, self.sealed_ns,
        )  # fmt: skip
        return _BATCH + body + self.key_id.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """The signed word that the records of a batch were deleted on purpose; the batch's head stays."""

    index: int
    first: int
    last: int
    root: bytes
    time_ns: int
    policy: str
    key_id: str = ""
    signature: bytes = b""

    def signed(self) -> bytes:
        """What the signature is over."""
        body = _TOMBSTONE_BODY.pack(self.index, self.first, self.last, self.root, self.time_ns)
        return b"\0".join((_TOMBSTONE + body, self.key_id.encode(), self.policy.encode()))


def batch_of(records: Sequence[Record], frontier: Frontier, *, sealed_ns: int, key_id: str) -> tuple[Batch, Frontier]:
    """The batch of records that follow each other, still to be signed, and the edge of the log's tree with it."""
    digests = [record.digest for record in records]
    root = root_of(digests)
    grown = frontier.append(root)
    batch = Batch(
        index=frontier.size,
        first=records[0].sequence,
        last=records[-1].sequence,
        previous=records[0].previous,
        digest=digests[-1],
        root=root,
        log_root=grown.root,
        begin_ns=min(record.time_ns for record in records),
        end_ns=max(record.time_ns for record in records),
        sealed_ns=sealed_ns,
        key_id=key_id,
    )
    return batch, grown
