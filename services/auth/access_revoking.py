"""Revocation on demand: one token, a session, or everything that a principal holds."""

from typing import Final

from chassis.kv import Delete, DeletePrefix, Op
from lepton.auth.v1.session_service_pb2 import RevokeAccessRequest
from lepton.errors import InvalidArgument
from lepton.names import ServiceAccountName, UserName
from services.auth import layout
from services.auth.audit import Deed
from services.auth.ca import SPIFFE_PATH, TRUST_DOMAIN
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
        if principal.startswith("spiffe://"):
            return [await self._member(principal)]
        mark = await self._revocations.of_principal(principal, self._store.clock.now())
        if principal.startswith("users/"):
            user = UserName.parse(principal, "principal")
            await self._store.entry(user, layout.user(user))
            return [mark, DeletePrefix(layout.sessions(user))]
        account = ServiceAccountName.parse(principal, "principal")
        await self._store.entry(account, layout.service_account(account))
        return [mark]

    async def _member(self, spiffe_id: str) -> Op:
        path = spiffe_id.removeprefix(f"spiffe://{TRUST_DOMAIN}/")
        if not SPIFFE_PATH.fullmatch(path):
            problem = f"must be spiffe://{TRUST_DOMAIN}/agent/NODE or .../service/NAME, or a user or service account"
            raise InvalidArgument("INVALID_FIELD", fields={"principal": problem})
        return await self._revocations.of_member(spiffe_id, self._store.clock.now())
