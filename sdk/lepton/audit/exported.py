"""An exported log: a file of JSON lines, written as it arrives and checked without any service."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TextIO

from google.protobuf.json_format import MessageToDict, Parse, ParseError

from lepton.audit.batch import Batch, Tombstone
from lepton.audit.record import ORIGIN
from lepton.audit.verify import Body, Finding, Head, Log, Span, verify
from lepton.audit.wire import batch_of, tombstone_of
from lepton.auth.v1.audit_service_pb2 import ExportAuditResponse
from lepton.errors import FailedPrecondition, InvalidArgument

Verifies = Callable[[bytes, bytes, bytes], bool]
"""Whether a signature is that of an Ed25519 key: `(public key, bytes, signature)`."""


@dataclass(slots=True)
class Exported:
    """A log that was exported, and the keys that it says are its own."""

    log: Log = field(default_factory=Log)
    keys: dict[str, bytes] = field(default_factory=dict)
    records: int = 0
    span: Span = field(default_factory=Span)

    def check(self, verifies: Verifies, trusted: Iterable[str] = (), span: Span | None = None) -> list[Finding]:
        """Everything that does not hold in the exported range; with `trusted`, only keys of these ids count."""
        allowed = set(trusted) or set(self.keys)

        def is_signed(key_id: str, data: bytes, signature: bytes) -> bool:
            key = self.keys.get(key_id)
            return key is not None and key_id in allowed and verifies(key, data, signature)

        return verify(self.log, is_signed, span or self.span)


def write_line(file: TextIO, part: ExportAuditResponse) -> None:
    """Append a part."""
    file.write(json.dumps(MessageToDict(part, preserving_proto_field_name=True), separators=(",", ":")) + "\n")


def read(lines: Iterable[str]) -> Exported:
    """The log in a file. Raises InvalidArgument (AUDIT_EXPORT_INVALID) for a file that is none."""
    exported = Exported()
    batches: list[Batch] = []
    bodies: dict[int, Body] = {}
    tombstones: dict[int, Tombstone] = {}
    end = ExportAuditResponse.End()
    for part in _parts(lines):
        match part.WhichOneof("part"):
            case "key":
                # A key proves its own id, so that whoever knows the id knows whether it is the right one.
                if sha256(part.key.public_key).hexdigest()[:32] == part.key.key_id:
                    exported.keys[part.key.key_id] = part.key.public_key
            case "batch":
                batches.append(batch_of(part.batch.head))
                if part.batch.HasField("body"):
                    body = Body(records=tuple(part.batch.body.records), leaves=tuple(part.batch.body.leaves))
                    bodies[batches[-1].index] = body
                if part.batch.HasField("tombstone"):
                    tombstones[batches[-1].index] = tombstone_of(part.batch.tombstone)
            case "end":
                end = part.end
    exported.log = Log(
        batches=batches,
        bodies=bodies,
        tombstones=tombstones,
        unsealed=tuple(end.records),
        anchor=batch_of(end.anchor) if end.HasField("anchor") else None,
        # A file without its end was cut off: its head is further on than anything that it holds.
        head=Head(sequence=end.sequence, digest=end.digest or ORIGIN),
    )
    exported.span = Span(first=max(1, end.range_first), last=end.range_last)
    exported.records = sum(len(body.records) for body in bodies.values()) + len(end.records)
    return exported


def ed25519() -> Verifies:
    """The check of signatures; its package is an extra, because only who checks an export needs it."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ModuleNotFoundError as error:
        raise FailedPrecondition("EXTRA_MISSING", extra="audit", package=str(error.name)) from error

    def verifies(public_key: bytes, data: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True

    return verifies


def _parts(lines: Iterable[str]) -> Iterator[ExportAuditResponse]:
    is_ended = False
    for number, line in enumerate(lines, 1):
        try:
            part = Parse(line, ExportAuditResponse())
        except ParseError as error:
            raise InvalidArgument("AUDIT_EXPORT_INVALID", line=str(number), problem=str(error)[:200]) from error
        is_ended = part.HasField("end")
        yield part
    if not is_ended:
        raise InvalidArgument("AUDIT_EXPORT_INVALID", line="the last", problem="the file ends too early")
