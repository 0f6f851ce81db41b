"""One record of the audit log: its fields, its canonical bytes, and the digest that links it to the one before."""

import enum
import hashlib
import re
import struct
from dataclasses import dataclass, fields
from typing import Final, Self

from lepton.names import project_of

ORIGIN: Final = bytes(32)
"""What the first record names as the digest before it."""
TEXT_LIMIT: Final = 512
"""Bytes of a text; what is longer is cut where it is recorded."""
_VERSION: Final = b"\x01"
_LEAF: Final = b"\x00"  # RFC 6962, 2.1: leaves and nodes are hashed apart
_HEAD: Final = struct.Struct(">Q32sqQIB")
_TEXTS: Final = ("trace_id", "service", "actor", "action", "resource", "source", "reason")
_SECRETS: Final = re.compile(
    r"lp[a-z]_[A-Za-z0-9_.~+/=-]{8,}"  # API keys, refresh tokens, join tokens
    r"|eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*(\.[A-Za-z0-9_-]*)*"  # JSON Web Tokens
    r"|(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"
    r"|-----BEGIN [A-Z ]*-----.*"
    r"|(?<=://)[^/\s@]+@"  # user:password@ of a URL
    r"|(?i:AKIA)[A-Z0-9]{16}"
    r"|(?i:password|passwd|secret|token|api_?key)\s*[=:]\s*\S+",
    re.DOTALL,
)


class Outcome(enum.IntEnum):
    """How it ended."""

    SUCCEEDED = 1
    REFUSED = 2  # not authenticated, or not permitted
    FAILED = 3
    INTERRUPTED = 4  # begun, and the service ended before it could say how it went on


class Malformed(ValueError):
    """Bytes that are not a record's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was done, by whom, on what, from where, with what outcome."""

    sequence: int = 0
    previous: bytes = ORIGIN
    time_ns: int
    policy_revision: int = 0
    count: int = 1  # more for refusals alike within a short time, which are one record
    outcome: Outcome
    trace_id: str = ""
    service: str
    actor: str = ""
    action: str
    resource: str = ""
    source: str = ""
    reason: str = ""

    @property
    def project(self) -> str | None:
        """The project whose administrators may see it."""
        return project_of(self.resource)

    @property
    def digest(self) -> bytes:
        """The link of the chain, and the leaf of the tree: RFC 6962's leaf hash of the canonical bytes."""
        return leaf_hash(self.canonical())

    def canonical(self) -> bytes:
        """The one byte string of this record: fixed order, fixed widths, texts with their length in front."""
        head = _HEAD.pack(
            self.sequence, self.previous, self.time_ns, self.policy_revision, self.count, int(self.outcome)
        )
        parts = [_VERSION, head]
        for name in _TEXTS:
            text = getattr(self, name).encode()
            parts += (len(text).to_bytes(2, "big"), text)
        return b"".join(parts)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The record of canonical bytes; Malformed for any others."""
        if data[:1] != _VERSION or len(data) < 1 + _HEAD.size:
            raise Malformed("not a record of version 1")
        sequence, previous, time_ns, revision, count, outcome = _HEAD.unpack_from(data, 1)
        at, texts = 1 + _HEAD.size, {}
        try:
            for name in _TEXTS:
                size = int.from_bytes(data[at : at + 2], "big")
                text = data[at + 2 : at + 2 + size]
                if at + 2 > len(data) or len(text) != size:
                    raise Malformed(f"the text {name} is cut off")
                texts[name] = text.decode()
                at += 2 + size
            if at != len(data):
                raise Malformed(f"{len(data) - at} bytes too many")
            return cls(
                sequence=sequence,
                previous=previous,
                time_ns=time_ns,
                policy_revision=revision,
                count=count,
                outcome=Outcome(outcome),
                **texts,
            )
        except ValueError as error:
            raise error if isinstance(error, Malformed) else Malformed(str(error)) from error


def leaf_hash(canonical: bytes) -> bytes:
    """The digest of a record's canonical bytes."""
    return hashlib.sha256(_LEAF + canonical).digest()


def clean(text: str) -> str:
    """A text as it may be recorded: secrets replaced, control characters too, cut to the limit."""
    if len(text) > TEXT_LIMIT:
        text = text[:TEXT_LIMIT]
    if not _is_plain(text):
        text = _SECRETS.sub("[redacted]", text)
        text = "".join(each if each.isprintable() else "?" for each in text)
    data = text.encode(errors="replace")
    return text if len(data) <= TEXT_LIMIT else data[:TEXT_LIMIT].decode(errors="ignore")


# Resource names and methods, nearly everything that is recorded: one look tells that there is nothing to redact.
_is_plain: Final = re.compile(r"(?!.*(lp[a-z]_|eyJ|AKIA))[A-Za-z0-9_.:/*\[\]-]*", re.ASCII).fullmatch

assert {each.name for each in fields(Record)} > set(_TEXTS)
