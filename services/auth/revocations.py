"""Revocations: sessions whose access tokens are refused everywhere until the last of them has expired."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from chassis.kv import KV, Compacted, Entry, Op, Put
from chassis.tokens import LEEWAY_S
from lepton.internal.v1 import policy_feed_pb2
from lepton.names import UserName
from services.auth import layout

_AT_ONCE: Final = 100  # within one transaction
_MARGIN_S: Final = 30


class Revocations:
    """Makes the marks that the policy feed carries to every service."""

    def __init__(
        self, kv: KV, access_lifetime: timedelta, certificate_lifetime: timedelta = timedelta(hours=1)
    ) -> None:
        self._kv = kv
        self._certified_s = int(certificate_lifetime.total_seconds()) + _MARGIN_S
        self._keep_s = int(access_lifetime.total_seconds()) + LEEWAY_S + _MARGIN_S

    async def of_session(self, session: str) -> Op:
        """Refuse the access tokens of a session."""
        lease = await self._kv.grant(self._keep_s, keep_alive=False)
        return _mark(session, lease.id)

    async def of_token(self, token_id: str) -> Op:
        """Refuse one access token."""
        lease = await self._kv.grant(self._keep_s, keep_alive=False)
        mark = policy_feed_pb2.Policy.Revocation(jti=token_id)
        return Put(layout.revoked_token(token_id), mark.SerializeToString(), lease.id)

    async def of_principal(self, principal: str, now: datetime) -> Op:
        """Refuse every access token that a principal has now; those of the second that has begun too."""
        lease = await self._kv.grant(self._keep_s, keep_alive=False)
        mark = policy_feed_pb2.Policy.Revocation(principal=principal, before_unix_s=int(now.timestamp()) + 1)
        return Put(layout.revoked_principal(principal), mark.SerializeToString(), lease.id)

    async def of_member(self, spiffe_id: str, now: datetime) -> Op:
        """Refuse every certificate that a member of the mesh has now, until the last of them has expired."""
        lease = await self._kv.grant(self._certified_s, keep_alive=False)
        mark = policy_feed_pb2.Policy.Revocation(principal=spiffe_id, before_unix_s=int(now.timestamp()) + 1)
        return Put(layout.revoked_principal(spiffe_id), mark.SerializeToString(), lease.id)

    async def of_user(self, name: UserName) -> Sequence[Op]:
        """Refuse the access tokens of a user's sessions, as many as a transaction takes; `complete` does the rest."""
        page = await self._kv.list(layout.sessions(name), limit=_AT_ONCE)
        return await self._marks(page.entries)

    async def complete(self, name: UserName, deleted_at: int) -> None:
        """Refuse those of the sessions deleted at a revision that `of_user` did not see."""
        prefix, after = layout.sessions(name), ""
        while True:
            try:
                page = await self._kv.list(prefix, limit=_AT_ONCE, start_after=after, revision=deleted_at - 1)
            except Compacted:
                return  # then far more time has passed since than a token lives
            unmarked = [each for each in page.entries if await self._kv.get(_key(each)) is None]
            if unmarked:
                await self._kv.txn([], await self._marks(unmarked))
            if not page.more:
                return
            after = page.entries[-1].key

    async def _marks(self, sessions: Sequence[Entry]) -> Sequence[Op]:
        if not sessions:
            return []
        lease = await self._kv.grant(self._keep_s, keep_alive=False)
        return [_mark(_id(each), lease.id) for each in sessions]


def _mark(session: str, lease: int) -> Put:
    revocation = policy_feed_pb2.Policy.Revocation(session=session)
    return Put(layout.revoked_session(session), revocation.SerializeToString(), lease)


def _id(session: Entry) -> str:
    return session.key.rpartition("/")[2]


def _key(session: Entry) -> str:
    return layout.revoked_session(_id(session))
