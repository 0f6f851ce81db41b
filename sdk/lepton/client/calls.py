"""Calls to the services: channels, tokens, and going on after a service was away; the only place that retries."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any, Final, Literal, Protocol, TypeVar

from lepton import channel
from lepton.channel import Channel
from lepton.client.credentials import CredentialStore
from lepton.client.patience import OnRetry, Patience, is_passing
from lepton.client.session import SignedIn, is_refused_token
from lepton.errors import Cancelled, FailedPrecondition, LeptonError
from lepton.profile import Profile

Service = Literal["auth", "scheduler", "trainer", "inference", "gateway"]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
WARNING: Final = "x-lepton-compliance-warning-bin"
"""Trailers with what a service has to say beside its answer: a compliance policy that warns, in UTF-8."""
OnWarning = Callable[[str], None]
_STEADY_S: Final = 5.0  # a stream that lived this long was served, even when it said nothing


class Stream(Protocol[T_co]):
    """A server stream in flight."""

    def __aiter__(self) -> AsyncIterator[T_co]: ...
    def cancel(self) -> bool: ...


class Calls:
    """What every group of methods makes its calls through."""

    def __init__(
        self,
        profile: Profile,
        store: CredentialStore,
        *,
        patience_s: float,
        on_retry: OnRetry | None = None,
        on_warning: OnWarning | None = None,
    ) -> None:
        self._profile, self._patience_s, self._on_retry = profile, patience_s, on_retry
        self._on_warning = on_warning
        self._channels: dict[str, Channel] = {}
        try:
            self._bundle = profile.trust_bundle.read_bytes()
        except OSError as error:
            raise FailedPrecondition(
                "PROFILE_INVALID", profile=str(profile.folder), problem=f"no trust bundle: {error}"
            ) from error
        self._sign_in_channel = self._connect("auth", token=None)
        self.signed_in = SignedIn(self._sign_in_channel, store)

    def channel(self, service: Service) -> Channel:
        """The channel to a service's client port, with the session's token on every call."""
        if service not in self._channels:
            self._channels[service] = self._connect(service, token=self.signed_in.token)
        return self._channels[service]

    async def unary(self, method: Callable[..., Awaitable[T]], request: Any, *, timeout_s: float | None = None) -> T:
        """One answer. Tried again while the service is away, so the request must be one that may be repeated."""

        async def call() -> T:
            answering = method(request, timeout=timeout_s)
            answer = await answering
            await self._warn(answering)
            return answer

        return await self.attempt(call)

    async def attempt(self, call: Callable[[], Awaitable[T]]) -> T:
        """The outcome of `call`, which is made afresh after every failure that passes."""
        patience, is_renewed = self.patience(), False
        while True:
            token = self.signed_in.token()
            try:
                await self.signed_in.ready()
                token = self.signed_in.token()
                return await call()
            except LeptonError as error:
                if is_passing(error):
                    await patience.bear(error)
                elif is_refused_token(error) and not is_renewed:
                    is_renewed = True
                    await self.public(lambda refused=token: self.signed_in.renew(refused))  # type: ignore[misc]
                else:
                    raise

    async def public(self, call: Callable[[], Awaitable[T]]) -> T:
        """Like `attempt`, for calls that need no session."""
        patience = self.patience()
        while True:
            try:
                return await call()
            except LeptonError as error:
                if not is_passing(error):
                    raise
                await patience.bear(error)

    async def stream(self, start: Callable[[], Stream[T]], *, endless: bool = False) -> AsyncGenerator[T, None]:
        """The messages of a server stream, which `start` begins again, where it stood, after every break."""
        patience, is_renewed = self.patience(), False
        while True:
            begun, token = monotonic(), self.signed_in.token()
            try:
                await self.signed_in.ready()
                token = self.signed_in.token()
                call = start()
                try:
                    async for message in call:
                        patience.progress()
                        is_renewed = False
                        yield message
                finally:
                    call.cancel()
                if not endless:
                    return
            except LeptonError as error:
                if monotonic() - begun > _STEADY_S:
                    patience.progress()
                    is_renewed = False
                if is_passing(error) or isinstance(error, Cancelled):  # the server cancelled: it was going down
                    await patience.bear(error)
                elif is_refused_token(error) and not is_renewed:
                    is_renewed = True
                    await self.public(lambda refused=token: self.signed_in.renew(refused))  # type: ignore[misc]
                else:
                    raise

    def patience(self) -> Patience:
        """Patience for one call."""
        return Patience(self._patience_s, self._on_retry)

    async def aclose(self) -> None:
        """Close every connection."""
        await self.signed_in.aclose()
        for each in (*self._channels.values(), self._sign_in_channel):
            await each.close()

    async def _warn(self, call: Any) -> None:
        """Pass on what the service had to say beside its answer."""
        if self._on_warning is None or not hasattr(call, "trailing_metadata"):
            return
        for key, value in await call.trailing_metadata() or ():
            if key == WARNING:
                self._on_warning(value.decode("utf-8", "replace"))

    def _connect(self, service: Service, *, token: Callable[[], str] | None) -> Channel:
        return channel.connect(
            getattr(self._profile, service), token=token, trust_bundle_pem=self._bundle, server_name=service
        )
