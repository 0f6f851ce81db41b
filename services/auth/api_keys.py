"""API keys: random secrets of service accounts, kept only as their SHA-256."""

import hashlib
import hmac
import secrets
import uuid
from datetime import UTC, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.kv import Delete, Put, mod, present
from lepton.auth.v1.directory_service_pb2 import CreateApiKeyRequest
from lepton.auth.v1.principal_pb2 import ApiKey, ServiceAccount
from lepton.errors import InvalidArgument
from lepton.internal.v1 import credentials_pb2
from lepton.names import ApiKeyName, ServiceAccountName
from services.auth import layout
from services.auth.audit import Deed
from services.auth.store import Store

PREFIX: Final = "lpk_"
LIFETIME: Final = timedelta(days=90)
_SECRET_BYTES: Final = 32


class ApiKeys:
    """Makes keys, deletes them, and says whose a secret is."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, request: CreateApiKeyRequest) -> ApiKey:
        """A new key; the answer holds its secret, which cannot be had again."""
        account = ServiceAccountName.parse(request.parent, "parent")
        name = ApiKeyName(account.project, account.service_account, request.api_key_id)
        key = ApiKey(uid=str(uuid.uuid4()), display_name=request.api_key.display_name)
        key.prefix = f"{PREFIX}{key.uid}"
        key.expire_time.CopyFrom(self._expiry(request.api_key))
        secret = f"{key.prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        record = credentials_pb2.ApiKeySecret(api_key=str(name), digest=digest(secret))

        async def check() -> None:
            await self._store.entry(account, layout.service_account(account))

        await self._store.create(
            request,
            key,
            name,
            layout.api_key(name),
            needs=[present(layout.service_account(account))],
            also=[Put(layout.api_key_secret(key.uid), record.SerializeToString())],
            check=check,
        )
        key.secret = secret
        return key

    async def delete(self, name: ApiKeyName) -> None:
        """The key no longer signs in; access tokens that it obtained live out their five minutes."""

        async def write() -> bool | None:
            entry = await self._store.entry(name, layout.api_key(name))
            secret = layout.api_key_secret(ApiKey.FromString(entry.value).uid)
            done = await self._store.audit.commit(
                Deed(resource=str(name)), [mod(entry.key, entry.mod_revision)], [Delete(entry.key), Delete(secret)]
            )
            return done.succeeded or None

        await self._store.retry(write)

    async def owner(self, secret: str) -> ServiceAccountName | None:
        """The enabled service account that a secret signs in; None when it signs in nobody."""
        uid = secret.removeprefix(PREFIX).partition("_")[0]
        found = await self._store.kv.get(layout.api_key_secret(uid))
        record = credentials_pb2.ApiKeySecret.FromString(found.value if found is not None else b"")
        if not hmac.compare_digest(record.digest, digest(secret)):
            return None
        name = ApiKeyName.parse(record.api_key)
        stored = await self._store.kv.get(layout.api_key(name))
        if stored is None:
            return None
        key = ApiKey.FromString(stored.value)
        if key.uid != uid or key.expire_time.ToDatetime(tzinfo=UTC) <= self._store.clock.now():
            return None
        account = await self._store.kv.get(layout.service_account(name.parent))
        if account is None or ServiceAccount.FromString(account.value).disabled:
            return None
        return name.parent

    def _expiry(self, wanted: ApiKey) -> Timestamp:
        now = self._store.clock.now()
        if not wanted.HasField("expire_time"):
            expiry = Timestamp()
            expiry.FromDatetime(now + LIFETIME)
            return expiry
        if wanted.expire_time.ToDatetime(tzinfo=UTC) <= now:
            raise InvalidArgument("INVALID_FIELD", fields={"api_key.expire_time": "must lie in the future"})
        return wanted.expire_time


def digest(secret: str) -> bytes:
    """How a secret is stored: it is random, so a fast hash suffices."""
    return hashlib.sha256(secret.encode()).digest()
