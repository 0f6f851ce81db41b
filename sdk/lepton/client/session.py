"""Who the client is signed in as: exchanges credentials for access tokens, and renews those before they expire."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lepton.auth.v1.session_service_pb2 import (
    IdTokenCredential,
    PasswordCredential,
    RefreshSessionRequest,
    Session,
    SignInRequest,
    WorkloadCredential,
)
from lepton.auth.v1.session_service_pb2_grpc import SessionServiceStub
from lepton.channel import Channel
from lepton.client.credentials import Credentials, CredentialStore
from lepton.errors import FailedPrecondition, LeptonError, Unauthenticated, Unavailable
from lepton.names import ServiceAccountName, UserName

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

    async def with_id_token(self, id_token: str, nonce: str = "") -> None:
        """Sign in as the person whom an OpenID provider names in an ID token; each is good for one sign-in."""
        await self._exchange(SignInRequest(id_token=IdTokenCredential(id_token=id_token, nonce=nonce)))

    async def with_workload(self, service_account: str, id_token_file: str) -> None:
        """Sign in as a service account with the ID token in a file, which is read again at every renewal."""
        account = str(ServiceAccountName.parse(service_account, "service_account"))
        async with self._store.lock():
            await self._by_file(account, _absolute(id_token_file))

    def will_use_workload(self, service_account: str, id_token_file: str) -> None:
        """Sign in so at the first call."""
        account = str(ServiceAccountName.parse(service_account, "service_account"))
        self._keep(Credentials(service_account=account, id_token_file=_absolute(id_token_file)))

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
                    self._take(await self._stub.RefreshSession(request))
                except Unauthenticated:
                    if self._sign_in_again is None:
                        raise
                else:
                    return
            if kept.api_key:
                await self._sign_in(SignInRequest(api_key=kept.api_key))
            elif kept.id_token_file:
                await self._by_file(kept.service_account, kept.id_token_file)
            elif self._sign_in_again is not None:
                await self._sign_in(self._sign_in_again)
            else:
                raise Unauthenticated("NOT_SIGNED_IN")

    async def _exchange(self, request: SignInRequest) -> None:
        async with self._store.lock():
            await self._sign_in(request)

    async def _sign_in(self, request: SignInRequest) -> None:
        self._take(await self._stub.SignIn(request), api_key=request.api_key)

    async def _by_file(self, service_account: str, id_token_file: str) -> None:
        try:
            token = (await asyncio.to_thread(Path(id_token_file).read_text)).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FailedPrecondition("FILE_NOT_FOUND", file=id_token_file) from error
        request = SignInRequest(workload=WorkloadCredential(service_account=service_account, id_token=token))
        session = await self._stub.SignIn(request)
        self._take(session, service_account=service_account, id_token_file=id_token_file)

    def _take(self, session: Session, **again: str) -> None:
        """Keep what came, with what signs in again."""
        now, expires = self._now(), session.access_expire_time.ToNanoseconds() / 1e9
        self._keep(
            Credentials(
                principal=session.principal,
                access_token=session.access_token,
                access_expires=expires,
                renew_after=now + _RENEW_AT * (expires - now),
                refresh_token=session.refresh_token,
                refresh_expires=session.refresh_expire_time.ToNanoseconds() / 1e9,
                **again,
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


def _absolute(file: str) -> str:
    """The same file from whichever folder the credentials are used."""
    return os.path.abspath(file)  # noqa: PTH100 - Path.absolute keeps `..`
