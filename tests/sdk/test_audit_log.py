"""The audit log as data: canonical bytes, RFC 6962's trees, and every tampering found where it was done."""

import hashlib
import itertools
import string
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import event, given, settings
from hypothesis import strategies as st

from lepton.audit.batch import Batch, Tombstone, batch_of
from lepton.audit.record import ORIGIN, TEXT_LIMIT, Malformed, Outcome, Record, clean, leaf_hash
from lepton.audit.tree import EMPTY, Frontier, node_hash, root_of
from lepton.audit.verify import Body, Finding, Head, Kind, Log, Span, verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def is_signed(key_id: str, data: bytes, signature: bytes) -> bool:
    try:
        KEY.public_key().verify(signature, data)
    except InvalidSignature:
        return False
    return key_id == "ours"


def sign(batch: Batch, key: Ed25519PrivateKey = KEY) -> Batch:
    return replace(batch, signature=key.sign(batch.signed()))


def make_records(count: int) -> list[Record]:
    records: list[Record] = []
    for number in range(1, count + 1):
        previous = records[-1].digest if records else ORIGIN
        text = f"projects/p{number % 3}/jobs/j{number}"
        records.append(
            Record(
                sequence=number, previous=previous, time_ns=1000 + number, outcome=Outcome.SUCCEEDED, service="trainer",
                actor=f"users/u{number % 4}", action="lepton.trainer.v1.TrainerService/CreateJob", resource=text,
            )
        )  # fmt: skip
    return records


def make_log(sizes: list[int], unsealed: int) -> Log:
    records = make_records(sum(sizes) + unsealed)
    batches, bodies, frontier, at = [], {}, Frontier(), 0
    for size in sizes:
        part = records[at : at + size]
        batch, frontier = batch_of(part, frontier, sealed_ns=5, key_id="ours")
        batches.append(sign(batch))
        bodies[batch.index] = body_of(part)
        at += size
    head = Head(sequence=len(records), digest=records[-1].digest) if records else Head()
    tail = [record.canonical() for record in records[at:]]
    return Log(batches=batches, bodies=bodies, unsealed=tail, anchor=batches[-1] if batches else None, head=head)


def body_of(records: list[Record]) -> Body:
    return Body(records=[each.canonical() for each in records], leaves=[each.digest for each in records])


# -- the bytes ----------------------------------------------------------------------------------------------------

texts = st.text(max_size=60)
records = st.builds(
    Record,
    sequence=st.integers(0, 2**63),
    previous=st.binary(min_size=32, max_size=32),
    time_ns=st.integers(-(2**62), 2**62),
    policy_revision=st.integers(0, 2**63),
    count=st.integers(1, 2**31),
    outcome=st.sampled_from(Outcome),
    trace_id=texts, service=texts, actor=texts, action=texts, resource=texts, source=texts, reason=texts,
)  # fmt: skip


@given(records)
def test_canonical_bytes_are_read_back_as_they_were(record: Record) -> None:
    assert Record.parse(record.canonical()) == record


@given(records, records)
def test_records_that_differ_have_bytes_that_differ(one: Record, other: Record) -> None:
    assert (one == other) == (one.canonical() == other.canonical())


@given(records, st.data())
def test_bytes_that_are_no_record_s_are_refused(record: Record, data: st.DataObject) -> None:
    whole = record.canonical()
    cut = data.draw(st.integers(0, len(whole) - 1))
    for each in (whole[:cut], whole + b"x", b"\x02" + whole[1:]):
        with pytest.raises(Malformed):
            Record.parse(each)


def test_trees_are_those_of_rfc_6962() -> None:
    # The test vectors of Certificate Transparency's reference implementation.
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [leaf_hash(bytes.fromhex(each)) for each in inputs]
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    assert [root_of(leaves[: size + 1]).hex() for size in range(8)] == roots
    assert root_of([]) == EMPTY == hashlib.sha256().digest()


@given(st.integers(0, 70))
def test_a_tree_grown_leaf_by_leaf_is_the_tree_made_at_once(size: int) -> None:
    leaves = [leaf_hash(bytes([at])) for at in range(size)]

    def reference(part: list[bytes]) -> bytes:
        if len(part) < 2:
            return part[0] if part else EMPTY
        split = 1 << (len(part) - 1).bit_length() - 1
        return node_hash(reference(part[:split]), reference(part[split:]))

    frontier = Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf)
    assert frontier.root == root_of(leaves) == reference(leaves)


# -- tampering ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tampered:
    log: Log
    at: int  # a sequence number that was touched
    what: str
    near: int = 0  # of two records with one number, either may be the one too many

    def is_found_in(self, findings: list[Finding]) -> bool:
        return any(each.first - self.near <= self.at <= each.last + self.near for each in findings)


shapes = st.tuples(st.lists(st.integers(1, 7), min_size=0, max_size=5), st.integers(0, 6)).filter(
    lambda shape: sum(shape[0]) + shape[1] > 0
)


def with_records(log: Log, part: int, records: list[bytes], *, leaves: bool = False) -> Log:
    """The log with other records in a batch (-1: behind the batches), and the stored digests changed to match."""
    if part < 0:
        return replace(log, unsealed=records)
    digests = [leaf_hash(each) for each in records] if leaves else log.bodies[part].leaves
    return replace(log, bodies={**log.bodies, part: Body(records=records, leaves=digests)})


def rechained(stored: list[bytes], start: int) -> list[bytes]:
    """What an attacker does who knows how the chain is made: every later record linked anew."""
    done = stored[:start]
    for data in stored[start:]:
        record = Record.parse(data)
        done.append((replace(record, previous=leaf_hash(done[-1])) if done else record).canonical())
    return done


def edit(data: bytes, draw: Callable[[st.SearchStrategy[str]], str]) -> bytes:
    record = Record.parse(data)
    field = draw(st.sampled_from(["actor", "resource", "action", "reason", "trace_id", "source", "service"]))
    return replace(record, **{field: getattr(record, field) + "x"}).canonical()


@st.composite
def tampered(draw: st.DrawFn) -> Tampered:
    sizes, unsealed = draw(shapes)
    log = make_log(sizes, unsealed)
    parts = [*range(len(sizes)), *([-1] if unsealed else [])]
    part = draw(st.sampled_from(parts))
    stored = list(log.unsealed if part < 0 else log.bodies[part].records)
    first = sum(sizes) + 1 if part < 0 else log.batches[part].first
    at = draw(st.integers(0, len(stored) - 1))
    kinds = ["edit", "edit and rechain", "garbage", "delete", "duplicate", "insert"]
    kinds += ["swap"] if len(stored) > 1 else []
    kinds += ["drop body", "drop head", "forge head"] if part >= 0 else []
    kinds += ["truncate"] if part in (-1, len(sizes) - 1) else []
    kind = draw(st.sampled_from(kinds))
    leaves = draw(st.booleans())
    if kind == "edit":
        stored[at] = edit(stored[at], draw)
    elif kind == "edit and rechain":
        stored[at] = edit(stored[at], draw)
        stored = rechained(stored, at + 1)
    elif kind == "garbage":
        stored[at] = draw(st.binary(max_size=40))
    elif kind == "delete":
        del stored[at]
        return Tampered(with_records(log, part, stored, leaves=leaves), first + at, kind)
    elif kind == "duplicate":
        stored.insert(at + 1, stored[at])
    elif kind == "insert":
        stranger = replace(Record.parse(stored[at]), actor="users/mallory").canonical()
        stored.insert(at, stranger)
    elif kind == "swap":
        other = draw(st.integers(0, len(stored) - 1).filter(lambda each: each != at))
        stored[at], stored[other] = stored[other], stored[at]
        at = min(at, other)
    elif kind == "drop body":
        return Tampered(replace(log, bodies={k: v for k, v in log.bodies.items() if k != part}), first, kind)
    elif kind == "drop head":
        rest = [each for each in log.batches if each.index != part]
        return Tampered(replace(log, batches=rest), first, kind)
    elif kind == "forge head":
        forged = sign(replace(log.batches[part], root=leaf_hash(b"other")), STRANGER)
        return Tampered(replace(log, batches=[*log.batches[:part], forged, *log.batches[part + 1 :]]), first, kind)
    elif kind == "truncate" and part < 0:
        return Tampered(replace(log, unsealed=stored[:at]), first + at, kind)
    elif kind == "truncate":
        bodies = {k: v for k, v in log.bodies.items() if k != part}
        return Tampered(replace(log, batches=log.batches[:-1], bodies=bodies, unsealed=[]), first, kind)
    near = 1 if kind in ("duplicate", "insert") else 0
    return Tampered(with_records(log, part, stored, leaves=leaves), first + at, kind, near)


@given(shapes)
def test_a_log_as_it_was_written_holds(shape: tuple[list[int], int]) -> None:
    assert verify(make_log(*shape), is_signed) == []


@settings(max_examples=600, deadline=None)
@given(tampered())
def test_every_tampering_is_found_where_it_was_done(case: Tampered) -> None:
    event(case.what)
    findings = verify(case.log, is_signed)
    assert case.is_found_in(findings), (case.what, case.at, findings)


@pytest.mark.exhaustive
@settings(max_examples=8_000, deadline=None)
@given(tampered())
def test_every_tampering_is_found_in_many_logs(case: Tampered) -> None:
    findings = verify(case.log, is_signed)
    assert case.is_found_in(findings), (case.what, case.at, findings)


def test_an_edit_is_located_to_the_record_even_when_the_chain_was_made_anew() -> None:
    log = make_log([8, 8], 3)
    stored = list(log.bodies[1].records)
    stored[2] = edit(stored[2], lambda _: "actor")
    findings = verify(with_records(log, 1, rechained(stored, 3)), is_signed)
    assert [each.kind for each in findings] == [Kind.EDITED] * 6
    assert findings[0].first == findings[0].last == 11


def test_swapped_records_are_called_reordered() -> None:
    log = make_log([6], 0)
    stored = list(log.bodies[0].records)
    stored[1], stored[4] = stored[4], stored[1]
    kinds = {each.kind for each in verify(with_records(log, 0, stored), is_signed)}
    assert kinds == {Kind.REORDERED}


def test_a_truncated_log_is_found_by_its_anchor_and_not_without() -> None:
    log = make_log([4, 4, 4], 0)
    short = replace(log, batches=log.batches[:2], bodies={k: v for k, v in log.bodies.items() if k < 2})
    found = verify(short, is_signed)
    assert [(each.kind, each.first, each.last) for each in found] == [(Kind.TRUNCATED, 9, 12)]
    # The negative control: without anchor and head, what is left is a perfect log.
    assert verify(replace(short, anchor=None, head=None), is_signed) == []


def test_a_truncated_tail_is_found_by_the_head_and_not_without() -> None:
    log = make_log([4], 5)
    short = replace(log, unsealed=log.unsealed[:3])
    assert [(each.kind, each.first, each.last) for each in verify(short, is_signed)] == [(Kind.TRUNCATED, 8, 9)]
    assert verify(replace(short, head=None), is_signed) == []


def test_a_log_that_was_rolled_back_with_its_anchor_is_found_by_who_saw_it_longer() -> None:
    long, short = make_log([4, 4, 4], 0), make_log([4, 4], 0)
    assert verify(short, is_signed) == []
    found = verify(replace(short, known=long.anchor), is_signed)
    assert [(each.kind, each.first, each.last) for each in found] == [(Kind.TRUNCATED, 9, 12)]


def test_without_the_chain_an_edit_of_what_is_not_sealed_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log([], 5)
    stored = list(log.unsealed)
    stored[1] = edit(stored[1], lambda _: "actor")
    tampered_log = replace(log, unsealed=stored)
    assert verify(tampered_log, is_signed)[0].first == 2
    monkeypatch.setattr("lepton.audit.verify._broken", lambda *_: None)
    assert verify(tampered_log, is_signed) == []


def test_heads_that_nobody_signed_are_found() -> None:
    log = make_log([3, 3], 0)
    stranger = sign(log.batches[1], STRANGER)
    found = verify(replace(log, batches=[log.batches[0], stranger], anchor=stranger), is_signed)
    assert {each.kind for each in found} == {Kind.FORGED}
    assert all((each.first, each.last) == (4, 6) for each in found)


def test_a_tombstone_keeps_the_log_provable_and_only_a_signed_one_does() -> None:
    log = make_log([3, 3, 3], 2)
    batch = log.batches[1]
    stone = Tombstone(
        index=1, first=batch.first, last=batch.last, root=batch.root, time_ns=1, policy="old", key_id="ours"
    )  # fmt: skip
    signed = replace(stone, signature=KEY.sign(stone.signed()))
    without = replace(log, bodies={k: v for k, v in log.bodies.items() if k != 1})
    assert [each.kind for each in verify(without, is_signed)] == [Kind.DELETED]
    assert verify(replace(without, tombstones={1: signed}), is_signed) == []
    forged = replace(stone, signature=STRANGER.sign(stone.signed()))
    kinds = {each.kind for each in verify(replace(without, tombstones={1: forged}), is_signed)}
    assert kinds == {Kind.FORGED, Kind.DELETED}
    elsewhere = replace(without, tombstones={1: replace(signed, index=2)})
    assert Kind.DELETED in {each.kind for each in verify(elsewhere, is_signed)}


def test_only_findings_in_the_range_are_told() -> None:
    log = make_log([4, 4, 4], 0)
    stored = list(log.bodies[1].records)
    stored[0] = b"x"
    broken = with_records(log, 1, stored)
    assert verify(broken, is_signed, Span(first=1, last=4)) == []
    assert verify(broken, is_signed, Span(first=5, last=5))[0].kind is Kind.EDITED
    assert verify(broken, is_signed, Span(first=9)) == []


# -- redaction ----------------------------------------------------------------------------------------------------

CANARY = "c4n4ry0123456789abcdef"


@pytest.mark.parametrize(
    "text",
    [
        f"lpk_0b5c9a3e-1_{CANARY}", f"lpr_alice.{CANARY}.1", f"lpj_{CANARY}", f"Bearer {CANARY}",
        f"eyJhbGciOiJFZERTQSJ9.{CANARY}.{CANARY}", f"https://alice:{CANARY}@host/x", f"password={CANARY}",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n", f"api_key: {CANARY}", f"users/{'a' * TEXT_LIMIT}{CANARY}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("around", ["{}", "projects/acme/jobs/{}", "x {} y"])
def test_secrets_are_redacted(text: str, around: str) -> None:
    assert CANARY not in clean(around.format(text))


@given(st.text(alphabet=string.ascii_lowercase + string.digits + "/-.:_", max_size=100))
def test_names_are_left_as_they_are(text: str) -> None:
    if not any(f"lp{letter}_" in text for letter in string.ascii_lowercase):
        assert clean(text) == text


@given(st.text(max_size=2000))
def test_whatever_is_recorded_is_bounded_and_printable(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned.encode()) <= TEXT_LIMIT
    assert cleaned.isprintable()


def test_the_canary_test_sees_what_is_not_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.setattr("lepton.audit.record._SECRETS", re.compile("(?!)"))
    assert CANARY in clean(f"Bearer {CANARY}")


def test_batches_are_all_of_the_log() -> None:
    log = make_log([5, 2, 9], 0)
    assert [each.last - each.first + 1 for each in log.batches] == [5, 2, 9]
    assert list(itertools.accumulate([5, 2, 9])) == [each.last for each in log.batches]
