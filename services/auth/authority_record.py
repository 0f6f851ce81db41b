"""The mesh's roots as they are stored: their certificates, and their private keys sealed by the key-encryption key."""

from datetime import UTC

from chassis.clock import Clock
from chassis.kv import KV, Entry, Put
from lepton.internal.v1 import credentials_pb2
from services.auth import layout
from services.auth.ca import Authority
from services.auth.kek import Kek
from services.auth.roots import Roots


async def load_roots(kv: KV, kek: Kek, clock: Clock) -> Roots | None:
    """The roots; None before `init` has made the first."""
    entry = await kv.get(layout.AUTHORITY)
    return roots_of(entry, kek, clock) if entry is not None else None


def roots_of(entry: Entry, kek: Kek, clock: Clock) -> Roots:
    """The roots that an entry of the store holds."""

    def opened(certificate: bytes, private_key: credentials_pb2.SealedKey) -> Authority:
        return Authority.load(certificate, kek.open(private_key, layout.AUTHORITY), clock)

    record = credentials_pb2.AuthorityRecord.FromString(entry.value)
    first = opened(record.certificate, record.private_key)
    if not record.HasField("next"):
        return Roots(first=first)
    return Roots(
        first=first,
        next=opened(record.next.certificate, record.next.private_key),
        sign_time=record.next.sign_time.ToDatetime(tzinfo=UTC),
        trust_end=record.next.former_trust_end_time.ToDatetime(tzinfo=UTC),
    )


def roots_put(roots: Roots, kek: Kek) -> Put:
    """The operation that stores the roots."""

    def sealed(authority: Authority) -> credentials_pb2.SealedKey:
        return kek.seal(authority.key_der, layout.AUTHORITY)

    first = roots.first
    record = credentials_pb2.AuthorityRecord(certificate=first.certificate_der, private_key=sealed(first))
    if roots.next is not None and roots.sign_time is not None and roots.trust_end is not None:
        record.next.certificate = roots.next.certificate_der
        record.next.private_key.CopyFrom(sealed(roots.next))
        record.next.sign_time.FromDatetime(roots.sign_time)
        record.next.former_trust_end_time.FromDatetime(roots.trust_end)
    return Put(layout.AUTHORITY, record.SerializeToString())
