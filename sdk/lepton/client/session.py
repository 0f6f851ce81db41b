"""Who the client is signed in as: exchanges credentials for access tokens, and renews those before they expire."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from lepton.auth.v1.session_service_pb2 import (
    PasswordCredential,
    RefreshSessionRequest,
    Session,
    SignInRequest,
)
from lepton.auth.v1.session_service_pb2_grpc import SessionServiceStub
from lepton.channel import Channel
from lepton.client.credentials import Credentials, CredentialStore
from lepton.errors import LeptonError, Unauthenticated, Unavailable
from lepton.names import UserName

_RENEW_AT = 0.8  # of the token's life


class SignedIn:
    """The client's session. `token` is what calls carry; `ready` makes sure that it works."""

    def __init__(self, auth: Channel, store: CredentialStore, *, now: Callable[[], float] = time.time) -> None:
        self._stub = SessionServiceStub(auth)
        self._store, self._now = store, now
        self._credentials = store.load()
        self._sign_in_again: SignInRequest | None = None
        self._renewing: asyncio.Task[None] | None = None

    @property
    def credentials(self) -> Credentials:
        """Who is signed in, with which secrets."""
        return self._credentials

    def token(self) -> str:
        """The access token, which may be empty."""
        return self._credentials.access_token

    async def with_password(self, user: str, password: str) -> None:
        """Sign in as a user, `alice` or `users/alice`; the password is remembered in this process only."""
        name = str(UserName.parse(user) if "/" in user else UserName(user))
        request = SignInRequest(password=PasswordCredential(user=name, password=password))
        await self._exchange(request)
        self._sign_in_again = request

    async def with_api_key(self, api_key: str) -> None:
        """Sign in as the service account of a key."""
        await self._exchange(SignInRequest(api_key=api_key))

    def will_use_password(self, user: str, password: str) -> None:
        """Sign in with these at the first call."""
        name = str(UserName.parse(user) if "/" in user else UserName(user))
        self._sign_in_again = SignInRequest(password=PasswordCredential(user=name, password=password))

    def forget(self) -> None:
        """Keep no credentials any more."""
        self._sign_in_again = None
        self._keep(Credentials())

    async def ready(self) -> None:
        """Return when the access token works, as far as is known here."""
        now = self._now()
        if now < self._credentials.renew_after:
            return
        try:
            await self.renew(self.token())
        except Unavailable:
            if now >= self._credentials.access_expires:
                raise

    async def renew(self, refused: str) -> None:
        """Get another token than the one refused; callers at the same time share one exchange."""
        if self.token() and self.token() != refused:
            return
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(refused))
        # Shielded: a caller that gives up must not lose the answer, because the old refresh token is used up by then.
        await asyncio.shield(self._renewing)

    async def aclose(self) -> None:
        """Wait for an exchange in flight, so that its answer is kept."""
        if self._renewing is not None:
            await asyncio.gather(self._renewing, return_exceptions=True)

    async def _renew(self, refused: str) -> None:
        async with self._store.lock():
            kept = self._store.load()
            if kept.access_token and kept.access_token != refused and self._now() < kept.access_expires:
                self._credentials = kept  # another process was faster
                return
            if kept.refresh_token:
                try:
                    request = RefreshSessionRequest(refresh_token=kept.refresh_token)
                    self._take(await self._stub.RefreshSession(request), api_key="")
                except Unauthenticated:
                    if self._sign_in_again is None:
                        raise
                else:
                    return
            if kept.api_key:
                await self._sign_in(SignInRequest(api_key=kept.api_key))
            elif self._sign_in_again is not None:
                await self._sign_in(self._sign_in_again)
            else:
                raise Unauthenticated("NOT_SIGNED_IN")

    async def _exchange(self, request: SignInRequest) -> None:
        async with self._store.lock():
            await self._sign_in(request)

    async def _sign_in(self, request: SignInRequest) -> None:
        self._take(await self._stub.SignIn(request), api_key=request.api_key)

    def _take(self, session: Session, *, api_key: str) -> None:
        now, expires = self._now(), session.access_expire_time.ToNanoseconds() / 1e9
        self._keep(
            Credentials(
                principal=session.principal,
                access_token=session.access_token,
                access_expires=expires,
                renew_after=now + _RENEW_AT * (expires - now),
                refresh_token=session.refresh_token,
                refresh_expires=session.refresh_expire_time.ToNanoseconds() / 1e9,
                api_key=api_key,
            )
        )

    def _keep(self, credentials: Credentials) -> None:
        self._store.save(credentials)
        self._credentials = replace(credentials)


def is_refused_token(error: LeptonError) -> bool:
    """Whether another access token may help; not so when it is the credentials themselves that are refused."""
    return isinstance(error, Unauthenticated) and error.reason not in (
        "NOT_SIGNED_IN",
        "SIGN_IN_FAILED",
        "REFRESH_TOKEN_REFUSED",
    )
