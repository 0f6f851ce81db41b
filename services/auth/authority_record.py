"""The mesh CA as it is stored: its certificate, and its private key sealed by the key-encryption key."""

from chassis.clock import Clock
from chassis.kv import KV, Put
from lepton.internal.v1 import credentials_pb2
from services.auth import layout
from services.auth.ca import Authority
from services.auth.kek import Kek


async def load_authority(kv: KV, kek: Kek, clock: Clock) -> Authority | None:
    """The authority; None before `init` has made it."""
    entry = await kv.get(layout.AUTHORITY)
    if entry is None:
        return None
    record = credentials_pb2.AuthorityRecord.FromString(entry.value)
    return Authority.load(record.certificate, kek.open(record.private_key, layout.AUTHORITY), clock)


def authority_put(authority: Authority, kek: Kek) -> Put:
    """The operation that stores an authority."""
    record = credentials_pb2.AuthorityRecord(
        certificate=authority.certificate_der, private_key=kek.seal(authority.key_der, layout.AUTHORITY)
    )
    return Put(layout.AUTHORITY, record.SerializeToString())
