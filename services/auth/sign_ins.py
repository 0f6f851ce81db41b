"""Signing in, whatever with: throttled, then handed to whoever knows the kind of credential."""

from lepton.auth.v1.session_service_pb2 import Session, SignInRequest
from lepton.errors import LeptonError, Unauthenticated
from services.auth.oidc.sign_in import OidcSignIn
from services.auth.sessions import Sessions
from services.auth.throttle import Throttle


class SignIns:
    """Takes every credential."""

    def __init__(self, sessions: Sessions, oidc: OidcSignIn, throttle: Throttle) -> None:
        self._sessions = sessions
        self._oidc = oidc
        self._throttle = throttle

    async def sign_in(self, request: SignInRequest, peer: str) -> Session:
        """A session. Raises Unauthenticated (SIGN_IN_FAILED), ResourceExhausted (SIGN_IN_THROTTLED, SIGN_IN_BUSY)."""
        attempt = self._throttle.begin(_account(request), peer)
        try:
            session = await self._by_kind(request)
        except LeptonError as error:
            if not isinstance(error, Unauthenticated):
                attempt.undone()  # nothing was learned about the credential
            raise
        attempt.succeeded()
        return session

    async def _by_kind(self, request: SignInRequest) -> Session:
        kind = request.WhichOneof("credential")
        if kind == "api_key":
            return await self._sessions.sign_in_with_api_key(request.api_key)
        if kind == "id_token":
            return await self._oidc.person(request.id_token)
        if kind == "workload":
            return await self._oidc.workload(request.workload)
        return await self._sessions.sign_in_with_password(request.password)


def _account(request: SignInRequest) -> str:
    """Whose credential could be guessed; only passwords can."""
    return request.password.user
