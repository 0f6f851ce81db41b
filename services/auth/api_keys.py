"""API keys: random secrets of service accounts, kept only as their SHA-256."""

import base64
import hashlib
import hmac
import secrets
import uuid
from datetime import UTC, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.kv import Delete, Entry, Put, mod, present
from lepton.auth.v1.directory_service_pb2 import CreateApiKeyRequest, ListApiKeysRequest
from lepton.auth.v1.principal_pb2 import ApiKey, ServiceAccount
from lepton.errors import InvalidArgument
from lepton.internal.v1 import credentials_pb2
from lepton.names import ApiKeyName, ProjectName, ServiceAccountName
from services.auth import bindings, layout, permissions
from services.auth.audit import Deed
from services.auth.store import Store

PREFIX: Final = "lpk_"
LIFETIME: Final = timedelta(days=90)
_SECRET_BYTES: Final = 32


class ApiKeys:
    """Makes keys, deletes them, and says whose a secret is."""

    def __init__(self, store: Store, derivation_key: bytes) -> None:
        self._store = store
        self._derivation_key = derivation_key

    async def create(self, request: CreateApiKeyRequest) -> ApiKey:
        """A new key; the answer holds its secret, which cannot be had again."""
        account = ServiceAccountName.parse(request.parent, "parent")
        name = ApiKeyName(account.project, account.service_account, request.api_key_id)
        wanted = request.api_key
        key = ApiKey(uid=str(uuid.uuid4()), display_name=wanted.display_name, resource=_checked(wanted, account))
        key.permissions.extend(sorted(wanted.permissions))
        key.prefix = f"{PREFIX}{key.uid}"
        key.expire_time.CopyFrom(self._expiry(request.api_key))
        secret = self._secret(key.uid, request.request_id)
        record = credentials_pb2.ApiKeySecret(api_key=str(name), digest=digest(secret))

        async def check() -> None:
            await self._store.entry(account, layout.service_account(account))

        created = await self._store.create(
            request,
            key,
            name,
            layout.api_key(name),
            needs=[present(layout.service_account(account))],
            also=[Put(layout.api_key_secret(key.uid), record.SerializeToString())],
            check=check,
        )
        created.secret = self._secret(created.uid, request.request_id) if request.request_id else secret
        return created

    async def page(self, request: ListApiKeysRequest) -> tuple[list[ApiKey], str]:
        """The keys of an account, a project or the organisation, whose secrets begin with a prefix."""

        def keep(entry: Entry) -> bool:
            return ApiKey.FromString(entry.value).prefix.startswith(request.prefix)

        return await self._store.page(_folder(request.parent), request, ApiKey, keep=keep if request.prefix else None)

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

    async def owner(self, secret: str) -> tuple[ServiceAccountName, ApiKey] | None:
        """The enabled service account that a secret signs in, and its key; None when it signs in nobody."""
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
        return name.parent, key

    def _secret(self, uid: str, request_id: str) -> str:
        """A new secret. With a request id it can be made again for the same request, so that it need not be stored."""
        content = secrets.token_bytes(_SECRET_BYTES)
        if request_id:
            content = hmac.digest(self._derivation_key, f"{uid}.{request_id}".encode(), "sha256")
        return f"{PREFIX}{uid}_{base64.urlsafe_b64encode(content).rstrip(b'=').decode()}"

    def _expiry(self, wanted: ApiKey) -> Timestamp:
        now = self._store.clock.now()
        if not wanted.HasField("expire_time"):
            expiry = Timestamp()
            expiry.FromDatetime(now + LIFETIME)
            return expiry
        if wanted.expire_time.ToDatetime(tzinfo=UTC) <= now:
            raise InvalidArgument("INVALID_FIELD", fields={"api_key.expire_time": "must lie in the future"})
        return wanted.expire_time


def _folder(parent: str) -> str:
    if not parent:
        return layout.api_keys()
    if parent.count("/") == 1:
        return layout.api_keys(ProjectName.parse(parent, "parent").project)
    account = ServiceAccountName.parse(parent, "parent")
    return layout.api_keys(account.project, account.service_account)


def _checked(wanted: ApiKey, account: ServiceAccountName) -> str:
    """The resource that the key is confined to; InvalidArgument where a limit is not one."""
    unknown = sorted(each for each in wanted.permissions if not permissions.is_pattern(each))
    if unknown:
        bad = f"{unknown[0][:128]!r} is no permission; ListPermissions names them, jobs.* means every verb"
        raise InvalidArgument("INVALID_FIELD", fields={"api_key.permissions": bad})
    if wanted.resource and wanted.resource != str(account.parent):
        bindings.checked_resource(wanted.resource, account.parent, "api_key.resource")
    return wanted.resource


def digest(secret: str) -> bytes:
    """How a secret is stored: it is random, so a fast hash suffices."""
    return hashlib.sha256(secret.encode()).digest()
