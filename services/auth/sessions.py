"""Sessions: signing in, refreshing with rotation, signing out."""

import hmac
import secrets
from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from chassis.access import ORGANISATION
from chassis.call import Principal
from chassis.kv import Compare, Delete, Entry, Put, absent, mod
from chassis.permissions import Permissions
from lepton.auth.v1.principal_pb2 import ApiKey, ServiceAccount, User
from lepton.auth.v1.session_service_pb2 import PasswordCredential, Session
from lepton.errors import Aborted, Unauthenticated
from lepton.internal.v1 import credentials_pb2
from lepton.names import ServiceAccountName, UserName
from services.auth import layout
from services.auth.api_keys import ApiKeys
from services.auth.audit import Deed
from services.auth.passwords import Passwords
from services.auth.policy import Policy
from services.auth.revocations import Revocations
from services.auth.store import Store
from services.auth.tokens import AccessTokens

REFRESH_PREFIX: Final = "lpr_"
_PREDICTS: Final = "deployments.get"


@dataclass(frozen=True, slots=True, kw_only=True)
class _RefreshToken:
    """What a refresh token says: it is authentic, so only its generation is in question."""

    user: UserName
    session: str
    generation: int


class Sessions:
    """Turns credentials into access tokens. Everything that fails, fails alike."""

    def __init__(
        self,
        store: Store,
        *,
        policy: Policy,
        tokens: AccessTokens,
        passwords: Passwords,
        api_keys: ApiKeys,
        revocations: Revocations,
        refresh_key: bytes,
        lifetime: timedelta,
    ) -> None:
        self._store = store
        self._policy = policy
        self._tokens = tokens
        self._passwords = passwords
        self._api_keys = api_keys
        self._revocations = revocations
        self._refresh_key = refresh_key
        self._lifetime = lifetime

    async def sign_in_with_password(self, credential: PasswordCredential) -> Session:
        """Begin a session for a user who knows the password."""
        user = UserName.parse(credential.user, "password.user")
        kv = self._store.kv
        account, stored = await kv.get(layout.user(user)), await kv.get(layout.password(user))
        hashed = credentials_pb2.PasswordRecord.FromString(stored.value).hash if stored is not None else None
        matches = await self._passwords.verify(hashed, credential.password)
        if not matches or stored is None or account is None or User.FromString(account.value).disabled:
            raise await self.refuse(str(user))
        # The password is still the one that was checked: a session never outlives its change.
        session = await self._begin(user, [unchanged(stored), unchanged(account)], self._lifetime)
        if session is None:
            raise await self.refuse(str(user))
        return session

    async def sign_in_by_provider(self, user: UserName, lifetime: timedelta) -> Session | None:
        """Begin a session for a user whom a provider identified; None when they may not sign in."""
        account = await self._store.kv.get(layout.user(user))
        if account is None or User.FromString(account.value).disabled:
            return None
        return await self._begin(user, [unchanged(account)], min(lifetime, self._lifetime))

    async def sign_in_by_trust(self, account: ServiceAccountName, trust: Entry) -> Session | None:
        """An access token for a service account by a trust that is there still; None when it may not sign in."""
        entry = await self._store.kv.get(layout.service_account(account))
        if entry is None or ServiceAccount.FromString(entry.value).disabled:
            return None
        done = await self._store.audit.commit(
            Deed(resource=str(account), actor=str(account)), [unchanged(entry), unchanged(trust)]
        )
        return self._access(str(account), secrets.token_hex(16)) if done.succeeded else None

    async def _begin(self, user: UserName, needs: Sequence[Compare], lifetime: timedelta) -> Session | None:
        """A session; None when what it rests on has changed."""
        token = _RefreshToken(user=user, session=secrets.token_hex(16), generation=1)
        now = self._store.clock.now()
        record = credentials_pb2.SessionRecord(principal=str(user), generation=token.generation)
        record.create_time.FromDatetime(now)
        record.expire_time.FromDatetime(now + lifetime)
        key = layout.session(user, token.session)
        lease = await self._store.kv.grant(int(lifetime.total_seconds()), keep_alive=False)
        done = await self._store.audit.commit(
            Deed(resource=str(user), actor=str(user)),
            [absent(key), *needs],
            [Put(key, record.SerializeToString(), lease.id)],
        )
        return self._session(token, record) if done.succeeded else None

    async def sign_in_with_api_key(self, secret: str) -> Session:
        """An access token for the service account of a key. There is nothing to refresh: the key signs in again."""
        found = await self._api_keys.owner(secret)
        if found is None:
            raise await self.refuse("")
        account, key = found
        await self._store.audit.commit(Deed(resource=str(account), actor=str(account)))
        return self._access(str(account), secrets.token_hex(16), key)

    async def refresh(self, refresh_token: str) -> Session:
        """The session goes on with new tokens. A token that was used before ends it: one of its two users stole it."""
        token = self._read(refresh_token)
        key = layout.session(token.user, token.session)
        entry = await self._store.kv.get(key)
        account = await self._store.kv.get(layout.user(token.user))
        record = credentials_pb2.SessionRecord.FromString(entry.value if entry is not None else b"")
        is_over = entry is None or record.expire_time.ToDatetime(tzinfo=UTC) <= self._store.clock.now()
        if entry is None or is_over or account is None or User.FromString(account.value).disabled:
            raise Unauthenticated("REFRESH_TOKEN_REFUSED")
        user = str(token.user)
        if record.generation != token.generation:
            await self._end(token.user, token.session, Deed(resource=user, actor=user, action="session.reuse"))
            raise Unauthenticated("REFRESH_TOKEN_REFUSED")
        record.generation += 1
        done = await self._store.audit.commit(
            Deed(resource=user, actor=user),
            [mod(key, entry.mod_revision), mod(account.key, account.mod_revision)],
            [Put(key, record.SerializeToString(), entry.lease or None)],
        )
        if not done.succeeded:
            raise Aborted("WRITE_CONFLICT")
        next_token = _RefreshToken(user=token.user, session=token.session, generation=record.generation)
        return self._session(next_token, record)

    async def sign_out(self, principal: Principal) -> None:
        """End the caller's session, everywhere."""
        if not principal.session:
            raise Unauthenticated("TOKEN_MISSING")
        user = UserName.parse(principal.name) if principal.name.startswith("users/") else None
        await self._end(user, principal.session, Deed(resource=principal.name))

    async def _end(self, user: UserName | None, session: str, deed: Deed) -> None:
        ops = [await self._revocations.of_session(session)]
        if user is not None:
            ops.append(Delete(layout.session(user, session)))
        done = await self._store.audit.commit(deed, [], ops)
        await self._policy.reached(done.revision)

    async def refuse(self, claimed: str, reason: str = "") -> Unauthenticated:
        """The one answer to credentials that do not hold; why they do not is for the audit log."""
        await self._store.audit.refused(claimed, reason)
        return Unauthenticated("SIGN_IN_FAILED")

    def _session(self, token: _RefreshToken, record: credentials_pb2.SessionRecord) -> Session:
        session = self._access(record.principal, token.session)
        session.refresh_token = self._write(token)
        session.refresh_expire_time.CopyFrom(record.expire_time)
        return session

    def _access(self, principal: str, session_id: str, key: ApiKey | None = None) -> Session:
        scopes = {scope for _, scope in self._policy.grants(principal)}
        limit = key or ApiKey()
        access = self._tokens.issue(
            principal, session_id, _projects(scopes, limit), permissions=limit.permissions, within=limit.resource
        )
        session = Session(principal=principal, access_token=access.token)
        session.access_expire_time.FromDatetime(_naive(access.expires))
        return session

    def _write(self, token: _RefreshToken) -> str:
        body = f"{token.user.user}.{token.session}.{token.generation}"
        return f"{REFRESH_PREFIX}{body}.{self._mac(body)}"

    def _read(self, refresh_token: str) -> _RefreshToken:
        body, _, mac = refresh_token.removeprefix(REFRESH_PREFIX).rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(body).encode()):
            raise Unauthenticated("REFRESH_TOKEN_REFUSED")
        user, session, generation = body.split(".")
        return _RefreshToken(user=UserName(user), session=session, generation=int(generation))

    def _mac(self, body: str) -> str:
        return hmac.digest(self._refresh_key, body.encode(), "sha256").hex()


def unchanged(entry: Entry) -> Compare:
    """The entry is as it was read."""
    return mod(entry.key, entry.mod_revision)


def _projects(scopes: Set[str], limit: ApiKey) -> Set[str]:
    """Where the token is good for predictions: in projects in which it is good as a whole, and for serving."""
    if limit.permissions and not Permissions(limit.permissions).grants(_PREDICTS):
        return set()
    whole = {
        scope.removeprefix("projects/") for scope in scopes if scope.startswith("projects/") and scope.count("/") == 1
    }
    if not limit.resource:
        return {ORGANISATION} if ORGANISATION in scopes else whole
    confined = limit.resource.removeprefix("projects/")
    is_held = ORGANISATION in scopes or confined in whole
    return {confined} if is_held and "/" not in confined else set()


def _naive(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)
