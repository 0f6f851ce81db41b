"""The keys that sign access tokens: Ed25519, sealed in the store, published as a JSON Web Key Set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from joserfc.jwk import OKPKey

from chassis.clock import Clock
from lepton.internal.v1 import credentials_pb2
from services.auth import layout
from services.auth.kek import Kek

ALGORITHM: Final = "EdDSA"
KNOWN_AFTER: Final = timedelta(seconds=60)  # by then every service has a new key from the policy feed


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that signs, and its id."""

    kid: str
    key: OKPKey


def new_key(kek: Kek, clock: Clock) -> credentials_pb2.SigningKeyRecord:
    """A fresh signing key, ready to be stored at `layout.signing_key(record.kid)`."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    kid = OKPKey.import_key(Ed25519PublicKey.from_public_bytes(public)).thumbprint()
    record = credentials_pb2.SigningKeyRecord(
        kid=kid, public_key=public, private_key=kek.seal(private.private_bytes_raw(), layout.signing_key(kid))
    )
    record.create_time.FromDatetime(clock.now())
    return record


def key_set(records: Iterable[credentials_pb2.SigningKeyRecord]) -> dict[str, Any]:
    """The public halves as a JWKS, oldest first."""
    return {"keys": [_public(record) for record in sorted(records, key=_created)]}


class KeyRing:
    """Chooses and opens the key that signs now."""

    def __init__(self, kek: Kek, clock: Clock) -> None:
        self._kek = kek
        self._clock = clock
        self._opened: dict[str, SigningKey] = {}

    def signing_key(self, records: Mapping[str, credentials_pb2.SigningKeyRecord]) -> SigningKey:
        """The newest key that every service already knows; the oldest of all when none is that old."""
        by_age = sorted(records.values(), key=_created)
        if not by_age:
            raise LookupError("there is no signing key: run `python -m services.auth init` first")
        known = [record for record in by_age if self._clock.now() - _created(record) >= KNOWN_AFTER]
        return self._open(known[-1] if known else by_age[0])

    def _open(self, record: credentials_pb2.SigningKeyRecord) -> SigningKey:
        opened = self._opened.get(record.kid)
        if opened is None:
            secret = self._kek.open(record.private_key, layout.signing_key(record.kid))
            key = OKPKey.import_key(Ed25519PrivateKey.from_private_bytes(secret))
            opened = self._opened[record.kid] = SigningKey(kid=record.kid, key=key)
        return opened


def _public(record: credentials_pb2.SigningKeyRecord) -> dict[str, Any]:
    key = OKPKey.import_key(Ed25519PublicKey.from_public_bytes(record.public_key))
    return {**key.as_dict(private=False), "kid": record.kid, "use": "sig", "alg": ALGORITHM}


def _created(record: credentials_pb2.SigningKeyRecord) -> datetime:
    return record.create_time.ToDatetime(tzinfo=UTC)
