"""From a verified ID token to a user: by issuer and subject, with the roles that the person's groups give today."""

import re
import uuid
from datetime import UTC, datetime
from typing import Final

from chassis.access import ORGANISATION
from chassis.kv import Entry, Put, absent, mod
from lepton.auth.v1.principal_pb2 import User
from lepton.auth.v1.user_identity_pb2 import UserIdentity
from lepton.errors import InvalidArgument
from lepton.internal.v1.federation_pb2 import FederatedIdentityRecord
from lepton.names import UserIdentityName, UserName
from services.auth import layout
from services.auth.audit import Deed
from services.auth.bootstrap import ADMIN
from services.auth.oidc.group_roles import Changes, GroupRoles
from services.auth.oidc.id_token import TokenRefused, groups, verified_email
from services.auth.oidc.identities import UserIdentities, digest
from services.auth.oidc.providers import Verified
from services.auth.policy import Policy
from services.auth.store import Store, resource_of, stamp

_ID_LENGTH: Final = 48


class Federation:
    """Finds, links and creates users; gives and takes what their groups give."""

    def __init__(self, store: Store, identities: UserIdentities, roles: GroupRoles, policy: Policy) -> None:
        self._store = store
        self._identities = identities
        self._roles = roles
        self._policy = policy

    async def user_of(self, verified: Verified) -> UserName:
        """The user that a person is. Raises TokenRefused when they are none and may not become one."""
        held = groups(verified.claims, verified.provider.groups_claim)
        key = layout.federated_identity(digest(verified.provider.issuer, verified.subject))
        if await self._store.kv.get(key) is None:
            await self._store.retry(lambda: self._first_time(verified, key))
        user, revision = await self._store.retry(lambda: self._sync(verified, key, held))
        await self._policy.reached(revision)
        return user

    async def _first_time(self, verified: Verified, key: str) -> Entry | None:
        """The new link; None when another sign-in has changed what it rests on."""
        if (there := await self._store.kv.get(key)) is not None:
            return there
        provider = verified.provider
        identity = UserIdentity(provider=verified.name, issuer=provider.issuer, subject=verified.subject)
        named = _named_by_email(verified)
        entry = await self._store.kv.get(layout.user(named)) if named is not None else None
        if named is not None and entry is not None and await self._may_match(named, provider.issuer):
            # Written anew as it is, so that of two people with one address only one is linked.
            needs, also = [mod(entry.key, entry.mod_revision)], [Put(entry.key, entry.value)]
            return await self._identities.link(named, identity, needs, also, "federation.link")
        if not provider.create_users:
            raise TokenRefused("nobody is linked to this subject; an administrator does it: lepton users link")
        name = await self._free_id(verified)
        user = User(uid=str(uuid.uuid4()), display_name=_shown_name(verified))
        stamp(user, name, self._store.clock)
        key = layout.user(name)
        return await self._identities.link(
            name, identity, [absent(key)], [Put(key, user.SerializeToString())], "federation.create"
        )

    async def _may_match(self, named: UserName, issuer: str) -> bool:
        """Not who is linked at the issuer already, nor who can do something everywhere: those are linked by hand."""
        is_ruling = any(scope == ORGANISATION for _, scope in self._policy.grants(str(named)))
        return not is_ruling and not await self._identities.has_one_at(named, issuer)

    async def _free_id(self, verified: Verified) -> UserName:
        """An id for a new user.

        Only an address that the provider verified in the configured domain is taken as it is: names that people choose
        for themselves get a suffix, so that nobody is taken for somebody else.
        """
        named = _named_by_email(verified)
        if named is not None and await self._store.kv.get(layout.user(named)) is None:
            return named
        chosen = str(verified.claims.get("preferred_username") or verified.claims.get("email") or "").partition("@")[0]
        plain = re.sub(r"[^a-z0-9]+", "-", chosen.lower()).strip("-")[:_ID_LENGTH].rstrip("-")
        stem = plain if re.match("[a-z]", plain) else f"u-{plain}".rstrip("-")
        return UserName(f"{stem}-{digest(verified.provider.issuer, verified.subject)[:8]}")

    async def _sync(self, verified: Verified, key: str, held: frozenset[str]) -> tuple[UserName, int] | None:
        """Have the user hold what the groups give, and no longer what they gave before; and the policy's revision."""
        entry = await self._store.kv.get(key)
        if entry is None:
            raise TokenRefused("the link was taken away meanwhile")
        record = FederatedIdentityRecord.FromString(entry.value)
        name = UserIdentityName(UserName.parse(record.user).user, key.rpartition("/")[2])
        shown = resource_of(await self._store.entry(name, layout.user_identity(name)), UserIdentity)
        shown.last_sign_in_time.FromDatetime(self._store.clock.now())
        changes, issued = Changes(), datetime.fromtimestamp(verified.claims["iat"], UTC)
        # A token that was kept for later must not bring back what was taken away meanwhile.
        if not record.HasField("groups_time") or issued >= record.groups_time.ToDatetime(tzinfo=UTC):
            changes = await self._roles.changes(name, verified.provider.grants, held, record.bindings)
            record.groups_time.FromDatetime(issued)
            record.bindings[:] = sorted(changes.held)
            shown.role_bindings[:] = sorted(changes.held.values())
        deed = Deed(
            resource=str(name),
            actor=record.user,
            action="federation.sync",
            reason=f"roles +{changes.given} -{len(changes.gone)}",
        )
        done = await self._store.audit.commit(
            deed,
            [mod(key, entry.mod_revision), *changes.needs],
            [
                *changes.ops,
                Put(key, record.SerializeToString()),
                Put(layout.user_identity(name), shown.SerializeToString()),
            ],
        )
        revision = done.revision if changes.ops else self._policy.revision
        return (name.parent, revision) if done.succeeded else None


def _shown_name(verified: Verified) -> str:
    """What the provider calls a person, without what a terminal would obey."""
    name = verified.claims.get("name")
    return "".join(filter(str.isprintable, name))[:128] if isinstance(name, str) else ""


def _named_by_email(verified: Verified) -> UserName | None:
    """The user whose id is the local part of a verified address in the configured domain; never the first admin."""
    if not verified.provider.match_email_domain:
        return None
    try:
        local, _, domain = verified_email(verified.claims).partition("@")
        name = UserName(local)
    except (TokenRefused, InvalidArgument):
        return None
    return name if domain == verified.provider.match_email_domain and name != ADMIN else None
