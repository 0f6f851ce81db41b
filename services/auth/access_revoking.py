"""Revocation on demand: one token, a session, or everything that a principal holds."""

from typing import Final

from chassis.kv import Delete, DeletePrefix, Op
from lepton.auth.v1.session_service_pb2 import RevokeAccessRequest
from lepton.names import ServiceAccountName, UserName
from services.auth import layout
from services.auth.audit import Deed
from services.auth.policy import Policy
from services.auth.revocations import Revocations
from services.auth.store import Store

_AT_ONCE: Final = 1000


class AccessRevoking:
    """Refuses tokens that are still good."""

    def __init__(self, store: Store, revocations: Revocations, policy: Policy) -> None:
        self._store = store
        self._revocations = revocations
        self._policy = policy

    async def revoke(self, request: RevokeAccessRequest) -> int:
        """The revision of the policy that refuses what is named. What nobody holds can be revoked too."""
        target = request.WhichOneof("target")
        if target == "token_id":
            deed, ops = f"tokens/{request.token_id}", [await self._revocations.of_token(request.token_id)]
        elif target == "session":
            deed, ops = f"sessions/{request.session}", await self._session(request.session)
        else:
            deed, ops = request.principal, await self._principal(request.principal)
        done = await self._store.audit.commit(Deed(resource=deed), [], ops)
        await self._policy.reached(done.revision)
        return done.revision

    async def _session(self, session: str) -> list[Op]:
        ops, after = [await self._revocations.of_session(session)], ""
        while True:  # whose session it is, is not said; there are few enough to look through
            page = await self._store.kv.list(layout.SESSIONS, limit=_AT_ONCE, start_after=after)
            ops += [Delete(each.key) for each in page.entries if each.key.endswith(f"/{session}")]
            if not page.more:
                return ops
            after = page.entries[-1].key

    async def _principal(self, principal: str) -> list[Op]:
        mark = await self._revocations.of_principal(principal, self._store.clock.now())
        if principal.startswith("users/"):
            user = UserName.parse(principal, "principal")
            await self._store.entry(user, layout.user(user))
            return [mark, DeletePrefix(layout.sessions(user))]
        account = ServiceAccountName.parse(principal, "principal")
        await self._store.entry(account, layout.service_account(account))
        return [mark]
