"""The keys that sign batches: Ed25519, sealed in the store, each named by its own digest, replaced as they age."""

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from chassis.clock import Clock
from chassis.kv import KV, Put, absent, list_all
from chassis.logs import logger
from lepton.internal.v1.credentials_pb2 import SigningKeyRecord
from services.auth import layout
from services.auth.audit import AuditTrail, Deed
from services.auth.kek import Kek, KekError

log = logger(__name__)


class AuditKeys:
    """Makes, opens and uses the keys. Only what our key-encryption key opens is a key of the log."""

    def __init__(self, kv: KV, kek: Kek, trail: AuditTrail, clock: Clock, lifetime: timedelta) -> None:
        self._kv = kv
        self._kek = kek
        self._trail = trail
        self._clock = clock
        self._lifetime = lifetime
        self._keys: dict[str, tuple[datetime, Ed25519PrivateKey]] = {}

    async def refresh(self) -> None:
        """Take over the keys in the store, and add one when there is none or the newest is too old."""
        for entry in (await list_all(self._kv, layout.AUDIT_KEYS)).entries:
            if entry.key.removeprefix(layout.AUDIT_KEYS) not in self._keys:
                self._open(SigningKeyRecord.FromString(entry.value), entry.key)
        newest = max((created for created, _ in self._keys.values()), default=None)
        if newest is None or self._clock.now() - newest >= self._lifetime:
            await self._add()

    @property
    def newest(self) -> str:
        """The id of the key that signs now."""
        return max(self._keys, key=lambda key_id: (self._keys[key_id][0], key_id))

    def sign(self, key_id: str, data: bytes) -> bytes:
        """The signature of a key."""
        return self._keys[key_id][1].sign(data)

    def is_signed(self, key_id: str, data: bytes, signature: bytes) -> bool:
        """Whether a key of the log signed this."""
        known = self._keys.get(key_id)
        return known is not None and verifies(known[1].public_key().public_bytes_raw(), data, signature)

    def public(self) -> dict[str, bytes]:
        """The public halves, by id."""
        return {key_id: key.public_key().public_bytes_raw() for key_id, (_, key) in sorted(self._keys.items())}

    async def _add(self) -> None:
        private = Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        key = layout.audit_key(key_id_of(public))
        record = SigningKeyRecord(
            kid=key_id_of(public), public_key=public, private_key=self._kek.seal(private.private_bytes_raw(), key)
        )
        record.create_time.FromDatetime(self._clock.now())
        deed = Deed(resource=f"auditKeys/{record.kid}", actor="service/auth", action="audit.newKey")
        # The key before it signs the batch with this record: that is how the new key is vouched for.
        if (await self._trail.commit(deed, [absent(key)], [Put(key, record.SerializeToString())])).succeeded:
            self._open(record, key)

    def _open(self, record: SigningKeyRecord, key: str) -> None:
        try:
            private = Ed25519PrivateKey.from_private_bytes(self._kek.open(record.private_key, key))
        except (KekError, ValueError) as error:
            log.error("a key of the audit log is not ours", key=key, error=error)
            return
        self._keys[record.kid] = (record.create_time.ToDatetime(tzinfo=UTC), private)


def key_id_of(public_key: bytes) -> str:
    """The id that a public key has: whoever knows the id knows the key."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def verifies(public_key: bytes, data: bytes, signature: bytes) -> bool:
    """Whether a signature is that of a public key."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except InvalidSignature:
        return False
    return True
