"""Who users are at providers: links by issuer and subject, made by administrators or at a first sign-in."""

import hashlib
import json
import uuid
from collections.abc import Sequence
from typing import Final

from chassis.kv import Compare, Delete, DeletePrefix, Entry, Op, Put, absent, mod, present
from lepton.auth.v1.federation_service_pb2 import CreateUserIdentityRequest, ListUserIdentitiesRequest
from lepton.auth.v1.user_identity_pb2 import UserIdentity
from lepton.errors import InvalidArgument
from lepton.internal.v1.federation_pb2 import FederatedIdentityRecord
from lepton.names import UserIdentityName, UserName, not_found
from services.auth import layout
from services.auth.audit import Deed
from services.auth.oidc.providers import Providers
from services.auth.policy import Policy
from services.auth.revocations import Revocations
from services.auth.store import Store, already_exists, resource_of, stamp

_AT_ONCE: Final = 100


class UserIdentities:
    """Links, as administrators see them."""

    def __init__(self, store: Store, providers: Providers, revocations: Revocations, policy: Policy) -> None:
        self._store = store
        self._providers = providers
        self._revocations = revocations
        self._policy = policy

    async def create(self, request: CreateUserIdentityRequest) -> UserIdentity:
        """Link a person at a provider to a user; AlreadyExists where that person is linked to anybody."""
        user, wanted = UserName.parse(request.parent, "parent"), request.user_identity
        provider = self._providers.get(wanted.provider)
        if provider is None or not provider.client_id:
            bad = "no provider with which people sign in has this name; ListIdentityProviders names them"
            raise InvalidArgument("INVALID_FIELD", fields={"user_identity.provider": bad})
        identity = UserIdentity(provider=wanted.provider, issuer=provider.issuer, subject=wanted.subject)
        name = UserIdentityName(user.user, digest(provider.issuer, wanted.subject))
        key = layout.federated_identity(name.identity)

        async def check() -> None:
            await self._store.entry(user, layout.user(user))
            if await self._store.kv.get(key) is not None:
                raise already_exists(name)

        return await self._store.create(
            request,
            identity,
            name,
            layout.user_identity(name),
            needs=[present(layout.user(user)), absent(key)],
            also=[Put(key, FederatedIdentityRecord(user=str(user)).SerializeToString())],
            check=check,
        )

    async def page(self, request: ListUserIdentitiesRequest) -> tuple[list[UserIdentity], str]:
        """Who a user is at which providers."""
        user = UserName.parse(request.parent, "parent")
        await self._store.entry(user, layout.user(user))
        return await self._store.page(layout.user_identities(user), request, UserIdentity)

    async def delete(self, name: UserIdentityName) -> None:
        """Take a link away with the roles that it gave; the user is signed out everywhere, whatever with."""

        async def write() -> int | None:
            shown = await self._store.entry(name, layout.user_identity(name))
            record = await self._store.kv.get(layout.federated_identity(name.identity))
            if record is None:
                raise not_found(name)
            given = FederatedIdentityRecord.FromString(record.value).bindings
            done = await self._store.audit.commit(
                Deed(resource=str(name)),
                [mod(shown.key, shown.mod_revision), mod(record.key, record.mod_revision)],
                [
                    Delete(shown.key),
                    Delete(record.key),
                    *map(Delete, given),
                    await self._revocations.of_principal(str(name.parent), self._store.clock.now()),
                    DeletePrefix(layout.sessions(name.parent)),
                ],
            )
            return done.revision if done.succeeded else None

        await self._policy.reached(await self._store.retry(write))

    async def has_one_at(self, user: UserName, issuer: str) -> bool:
        """Whether somebody at the issuer is this user already."""
        after = ""
        while True:
            page = await self._store.kv.list(layout.user_identities(user), limit=_AT_ONCE, start_after=after)
            if any(resource_of(each, UserIdentity).issuer == issuer for each in page.entries):
                return True
            if not page.more:
                return False
            after = page.entries[-1].key

    async def link(
        self, user: UserName, identity: UserIdentity, needs: Sequence[Compare], also: Sequence[Op], action: str
    ) -> Entry | None:
        """Link at a first sign-in; None when something of it was done by somebody else meanwhile."""
        name = UserIdentityName(user.user, digest(identity.issuer, identity.subject))
        identity.uid = str(uuid.uuid4())
        stamp(identity, name, self._store.clock)
        key, record = layout.federated_identity(name.identity), FederatedIdentityRecord(user=str(user))
        done = await self._store.audit.commit(
            Deed(resource=str(name), actor=str(user), action=action),
            [absent(key), *needs],
            [
                Put(key, record.SerializeToString()),
                Put(layout.user_identity(name), identity.SerializeToString()),
                *also,
            ],
        )
        return await self._store.kv.get(key) if done.succeeded else None


def digest(issuer: str, subject: str) -> str:
    """What a person at an issuer is kept under. JSON keeps the two apart whatever they hold."""
    return hashlib.sha256(json.dumps([issuer, subject]).encode()).hexdigest()
