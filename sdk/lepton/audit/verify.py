"""Checks a log against its signed heads and says where it was tampered with; pure, so anybody can run it.

A batch is judged by its signed root: the digests kept beside the records prove themselves against it, and then each
record by its own digest. What is not sealed yet is judged by its chain, up to the head. The anchor says how far the
log goes: without it, records missing at the end would not be missed.
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lepton.audit.batch import Batch, Tombstone
from lepton.audit.record import ORIGIN, Malformed, Record, leaf_hash
from lepton.audit.tree import Frontier, root_of

SignatureCheck = Callable[[str, bytes, bytes], bool]
"""Whether the key of this id signed these bytes: `(key id, bytes, signature)`."""


class Kind(enum.IntEnum):
    """What was done to the log."""

    EDITED = 1
    DELETED = 2
    INSERTED = 3
    REORDERED = 4
    TRUNCATED = 5
    FORGED = 6  # a head, tombstone or anchor that no key of ours signed, or that contradicts the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One act of tampering, and where: the sequence numbers it touches."""

    kind: Kind
    first: int
    last: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The records of a batch as they are stored, and their digests in order."""

    records: Sequence[bytes]
    leaves: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of the log: the newest record's number and digest."""

    sequence: int = 0
    digest: bytes = ORIGIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A log as it is stored; what is None was not kept, and what it would have told is not found."""

    batches: Sequence[Batch] = ()
    bodies: Mapping[int, Body] = field(default_factory=dict)  # by batch index
    tombstones: Mapping[int, Tombstone] = field(default_factory=dict)
    unsealed: Sequence[bytes] = ()
    anchor: Batch | None = None  # the newest sealed batch, kept apart
    head: Head | None = None
    known: Batch | None = None  # one that was seen earlier, by whoever checks


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Sequence numbers, both included; a `last` of 0 is the end of the log, whatever it is."""

    first: int = 1
    last: int = 0

    def meets(self, first: int, last: int) -> bool:
        """Whether it has a number in common with another."""
        return last >= self.first and (not self.last or first <= self.last)


EVERYTHING = Span()


def verify(log: Log, is_signed: SignatureCheck, span: Span = EVERYTHING) -> list[Finding]:
    """Everything that does not hold, in the order of the log; nothing for a log as it was written."""
    return in_order(_findings(log, is_signed, span), span)


def in_order(findings: Iterable[Finding], span: Span = EVERYTHING) -> list[Finding]:
    """Findings that touch a range, each once, in the order of the log."""
    return sorted(
        {each for each in findings if span.meets(each.first, max(each.first, each.last))},
        key=lambda each: (each.first, each.last, each.kind, each.what),
    )


def _findings(log: Log, is_signed: SignatureCheck, span: Span) -> Iterator[Finding]:
    yield from check_heads(log, is_signed)
    for batch in log.batches:
        if span.meets(batch.first, batch.last):
            yield from check_batch(batch, log.bodies.get(batch.index), log.tombstones.get(batch.index), is_signed)
    yield from check_end(log, is_signed)


def check_heads(log: Log, is_signed: SignatureCheck) -> Iterator[Finding]:
    """The signed heads: each signed, each behind the one before, no one missing."""
    frontier, digest, sequence, is_whole = Frontier(), ORIGIN, 0, True
    for batch in log.batches:
        if not is_signed(batch.key_id, batch.signed(), batch.signature):
            yield _forged(batch, "the head is not signed by a key of the log")
        if batch.index != frontier.size or batch.first != sequence + 1:
            if is_whole:
                first, last = min(sequence + 1, batch.first), max(batch.first - 1, sequence)
                yield Finding(kind=Kind.DELETED, first=first, last=max(first, last), what="sealed batches are missing")
            is_whole = False  # the tree cannot be followed over a gap
        elif batch.previous != digest:
            yield _forged(batch, "the batch does not follow the one before it")
        if is_whole:
            frontier = frontier.append(batch.root)
            if frontier.root != batch.log_root:
                yield _forged(batch, "the head contradicts the batches before it")
                is_whole = False
        else:
            frontier = Frontier(size=batch.index + 1)
        digest, sequence = batch.digest, batch.last


def check_batch(
    batch: Batch, body: Body | None, tombstone: Tombstone | None, is_signed: SignatureCheck
) -> Iterator[Finding]:
    """The records of one batch, against its signed root."""
    if tombstone is not None and not _is_own(tombstone, batch, is_signed):
        yield _forged(batch, "the tombstone is not signed by a key of the log, or is another batch's")
        tombstone = None
    if body is None:
        if tombstone is None:
            yield Finding(kind=Kind.DELETED, first=batch.first, last=batch.last, what="the records are missing")
        return
    expected = batch.last - batch.first + 1
    if len(body.leaves) != expected or root_of(body.leaves) != batch.root:
        yield from _without_leaves(batch, body)
        return
    yield from _by_leaves(batch, body)


def _by_leaves(batch: Batch, body: Body) -> Iterator[Finding]:
    """Each record against its own proven digest."""
    where = {leaf: batch.first + at for at, leaf in enumerate(body.leaves)}
    found = [leaf_hash(data) for data in body.records]
    if found == list(body.leaves):
        return
    present = set(found)
    missing = [number for leaf, number in where.items() if leaf not in present]
    strangers = [at for at, leaf in enumerate(found) if leaf not in where]
    for at in strangers:
        claimed = _sequence(body.records[at])
        number = claimed if claimed in missing else missing[0] if missing else 0
        if number:
            missing.remove(number)
            yield Finding(kind=Kind.EDITED, first=number, last=number, what="the record is not the one that was sealed")
        else:
            near = min(batch.first + at, batch.last)
            yield Finding(kind=Kind.INSERTED, first=near, last=near, what="a record that was never sealed")
    for number in missing:
        yield Finding(kind=Kind.DELETED, first=number, last=number, what="the record is missing")
    known = [where[leaf] for leaf in found if leaf in where]
    for before, number in pairwise(known):
        if number == before:
            yield Finding(kind=Kind.INSERTED, first=number, last=number, what="the record is there twice")
        elif number < before:
            yield Finding(kind=Kind.REORDERED, first=number, last=before, what="the records are not in their order")


def _without_leaves(batch: Batch, body: Body) -> Iterator[Finding]:
    """The digests were changed too: the records' own links tell as much as is left to tell."""
    if root_of([leaf_hash(data) for data in body.records]) == batch.root:
        yield Finding(kind=Kind.EDITED, first=batch.first, last=batch.last, what="the stored digests were changed")
        return
    broken = _broken(body.records, batch.first, batch.previous, Head(sequence=batch.last, digest=batch.digest))
    if broken is not None and broken.kind is not Kind.TRUNCATED:
        yield broken
        return
    what = "the records are not those that were sealed"
    yield Finding(kind=Kind.EDITED, first=broken.first if broken else batch.first, last=batch.last, what=what)


def check_end(log: Log, is_signed: SignatureCheck) -> Iterator[Finding]:
    """The anchor, the records behind the last batch, and the head."""
    last, digest = (log.batches[-1].last, log.batches[-1].digest) if log.batches else (0, ORIGIN)
    yield from _from_known(log, last)
    anchor = log.anchor
    if anchor is not None:
        if not is_signed(anchor.key_id, anchor.signed(), anchor.signature):
            yield _forged(anchor, "the anchor is not signed by a key of the log")
        elif not log.batches or log.batches[-1].index < anchor.index:
            yield Finding(kind=Kind.TRUNCATED, first=last + 1, last=anchor.last, what="the last batches are missing")
            return  # what follows the anchor cannot be followed from here
        elif log.batches[-1].index > anchor.index:
            yield _forged(log.batches[-1], "there are batches that the anchor does not know")
        elif log.batches[-1] != anchor:
            yield _forged(anchor, "the anchor is not the newest head")
    head = log.head
    if head is None:
        head = Head(sequence=last + len(log.unsealed), digest=leaf_hash(log.unsealed[-1]) if log.unsealed else digest)
    broken = _broken(log.unsealed, last + 1, digest, head)
    if broken is not None:
        yield broken


def _from_known(log: Log, last: int) -> Iterator[Finding]:
    """Whether the log goes on from a head that was seen earlier."""
    known = log.known
    if known is None:
        return
    at = next((batch for batch in log.batches if batch.index == known.index), None)
    if at is None and known.last > last:
        yield Finding(kind=Kind.TRUNCATED, first=last + 1, last=known.last, what="it once went on to a known head")
    elif at is None or at.log_root != known.log_root:
        yield _forged(known, "the log does not go on from the known head")


def _broken(records: Sequence[bytes], first: int, previous: bytes, head: Head) -> Finding | None:
    """The first record at which a chain does not hold, from the digest before it to its head."""
    digest, number = previous, first
    for at, data in enumerate(records):
        claimed = _sequence(data)
        if not claimed:
            return Finding(kind=Kind.EDITED, first=number, last=number, what="the bytes are not a record's")
        if claimed != number:
            rest = {_sequence(each) for each in records[at:]}
            if number in rest:
                return Finding(kind=Kind.REORDERED, first=number, last=max(number, claimed), what="not in their order")
            if claimed > number:
                return Finding(kind=Kind.DELETED, first=number, last=claimed - 1, what="records are missing")
            return Finding(kind=Kind.INSERTED, first=number, last=number, what="a record out of the sequence")
        if Record.parse(data).previous != digest:
            near = max(first, number - 1)
            return Finding(kind=Kind.EDITED, first=near, last=number, what="the link between two records is broken")
        digest, number = leaf_hash(data), number + 1
    if number - 1 < head.sequence:
        return Finding(kind=Kind.TRUNCATED, first=number, last=head.sequence, what="the newest records are missing")
    if (number - 1, digest) != (head.sequence, head.digest):
        # Every link holds, and yet it ends elsewhere: whoever changed a record has made all links behind it anew.
        last = max(first, number - 1)
        return Finding(kind=Kind.EDITED, first=first, last=last, what="the records do not lead to the head")
    return None


def _sequence(data: bytes) -> int:
    try:
        return Record.parse(data).sequence
    except Malformed:
        return 0


def _is_own(tombstone: Tombstone, batch: Batch, is_signed: SignatureCheck) -> bool:
    names = (tombstone.index, tombstone.first, tombstone.last, tombstone.root)
    return names == (batch.index, batch.first, batch.last, batch.root) and is_signed(
        tombstone.key_id, tombstone.signed(), tombstone.signature
    )


def _forged(batch: Batch, what: str) -> Finding:
    return Finding(kind=Kind.FORGED, first=batch.first, last=batch.last, what=what)
