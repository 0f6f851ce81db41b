"""Join tokens: one-time admissions to the mesh, kept as their SHA-256 until they are used or expire."""

import hashlib
import math
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from chassis.clock import Clock
from chassis.kv import KV, Delete, Put, absent, mod
from lepton.errors import InvalidArgument, Unauthenticated
from lepton.internal.v1 import credentials_pb2
from services.auth import layout
from services.auth.audit import AuditTrail, Deed
from services.auth.ca import SPIFFE_PATH

PREFIX: Final = "lpj_"
LIFETIME: Final = timedelta(minutes=10)
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token, to be shown once."""

    token: str
    expires: datetime


class JoinTokens:
    """Makes tokens and redeems each at most once."""

    def __init__(self, kv: KV, audit: AuditTrail, clock: Clock) -> None:
        self._kv = kv
        self._audit = audit
        self._clock = clock

    async def create(
        self, spiffe_path: str, lifetime: timedelta = LIFETIME, *, actor: str = "", action: str = ""
    ) -> NewToken:
        """A token that admits one member under this path of the trust domain."""
        if not SPIFFE_PATH.fullmatch(spiffe_path):
            raise InvalidArgument("INVALID_FIELD", fields={"spiffe_path": "must be agent/<node> or service/<name>"})
        token = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        expires = self._clock.now() + lifetime
        record = credentials_pb2.JoinTokenRecord(spiffe_path=spiffe_path)
        record.expire_time.FromDatetime(expires)
        lease = await self._kv.grant(math.ceil(lifetime.total_seconds()), keep_alive=False)
        key = _key(token)
        put = Put(key, record.SerializeToString(), lease.id)
        await self._audit.commit(Deed(resource=spiffe_path, actor=actor, action=action), [absent(key)], [put])
        return NewToken(token=token, expires=expires)

    async def redeem(self, token: str) -> str:
        """Use the token up and return the path that it admits; Unauthenticated when it is not, or no longer, good."""
        key = _key(token)
        entry = await self._kv.get(key)
        if entry is None:
            raise await self._refuse("")
        record = credentials_pb2.JoinTokenRecord.FromString(entry.value)
        if record.expire_time.ToDatetime(tzinfo=UTC) <= self._clock.now():
            raise await self._refuse(record.spiffe_path)
        deed = Deed(resource=record.spiffe_path, actor=record.spiffe_path)
        done = await self._audit.commit(deed, [mod(key, entry.mod_revision)], [Delete(key)])
        if not done.succeeded:
            raise await self._refuse(record.spiffe_path)
        return record.spiffe_path

    async def _refuse(self, spiffe_path: str) -> Unauthenticated:
        await self._audit.refused(spiffe_path)
        return Unauthenticated("JOIN_TOKEN_REFUSED")


def _key(token: str) -> str:
    return layout.join_token(hashlib.sha256(token.encode()).hexdigest())
