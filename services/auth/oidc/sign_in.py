"""Signing in with an ID token: a person begins a session, a program gets an access token."""

from datetime import UTC, datetime, timedelta

from chassis.kv import Put, absent
from chassis.logs import logger
from chassis.tokens import LEEWAY_S
from lepton.auth.v1.session_service_pb2 import IdTokenCredential, Session, WorkloadCredential
from lepton.names import ServiceAccountName
from services.auth import layout
from services.auth.oidc.federation import Federation
from services.auth.oidc.id_token import TokenRefused, digest, for_person
from services.auth.oidc.providers import Providers, Verified
from services.auth.oidc.trusts import WorkloadTrusts
from services.auth.sessions import Sessions
from services.auth.store import Store

log = logger(__name__)


class OidcSignIn:
    """Exchanges ID tokens. Everything that fails, fails alike; why is in auth's log and in the audit log."""

    def __init__(
        self, store: Store, providers: Providers, federation: Federation, trusts: WorkloadTrusts, sessions: Sessions
    ) -> None:
        self._store = store
        self._providers = providers
        self._federation = federation
        self._trusts = trusts
        self._sessions = sessions

    async def person(self, credential: IdTokenCredential) -> Session:
        """Begin a session for the user that a person is. The token is used up by it, whatever comes of it."""
        user = ""
        try:
            verified = await self._providers.verified(credential.id_token)
            for_person(verified.claims, verified.provider, credential.nonce)
            await self._use_up(credential.id_token, verified)
            name = await self._federation.user_of(verified)
            user = str(name)
            session = await self._sessions.sign_in_by_provider(name, timedelta(seconds=verified.provider.session_s))
            if session is None:
                raise TokenRefused("the user is disabled")
        except TokenRefused as refusal:
            log.warning("ID token refused", problem=str(refusal), user=user)
            raise await self._sessions.refuse(user, str(refusal)) from None
        return session

    async def workload(self, credential: WorkloadCredential) -> Session:
        """An access token for a service account that trusts the token. It may be sent again while it holds."""
        account = ServiceAccountName.parse(credential.service_account, "workload.service_account")
        try:
            verified = await self._providers.verified(credential.id_token)
            trust = await self._trusts.matching(account, verified)
            if trust is None:
                raise TokenRefused(f"the account has no trust in this audience and subject {verified.subject!r}")
            session = await self._sessions.sign_in_by_trust(account, trust)
            if session is None:
                raise TokenRefused("the account is disabled, or the trust was taken away")
        except TokenRefused as refusal:
            log.warning("ID token refused", problem=str(refusal), account=str(account))
            raise await self._sessions.refuse(str(account), str(refusal)) from None
        return session

    async def _use_up(self, token: str, verified: Verified) -> None:
        """Each token begins one session: whoever finds one in a log or a history gets nothing for it."""
        expires = datetime.fromtimestamp(int(verified.claims["exp"]), UTC) + timedelta(seconds=2 * LEEWAY_S)
        left_s = max(1, int((expires - self._store.clock.now()).total_seconds()))
        lease = await self._store.kv.grant(min(left_s, verified.provider.max_age_s + 4 * LEEWAY_S), keep_alive=False)
        key = layout.used_id_token(digest(token))
        if not (await self._store.kv.txn([absent(key)], [Put(key, b"1", lease.id)])).succeeded:
            raise TokenRefused("it was used before")
