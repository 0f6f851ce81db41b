"""What a provider publishes: its endpoints (OpenID Connect Discovery 1.0) and its keys (RFC 7517), fetched and kept.

Kept for ten minutes, and for an hour where the provider does not answer. A key id that is not among the keys has them
fetched anew, but only so often: whoever sends made-up ids must not make auth fetch for each.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from chassis.clock import Clock
from chassis.fetching import FetchError, UrlRefused, checked_url
from chassis.logs import logger
from lepton.errors import Unavailable
from services.auth.oidc.id_token import Key, TokenRefused, Unverified, import_key
from services.auth.oidc.settings import OidcProvider

log = logger(__name__)

FRESH_S: Final = 600.0
KEPT_S: Final = 3600.0
APART_S: Final = 30.0
"""Between two attempts to fetch, whatever is asked for."""
_KEYS: Final = 100
_WELL_KNOWN: Final = "/.well-known/openid-configuration"


class Fetch(Protocol):
    """Fetches documents."""

    async def get(self, url: str) -> bytes:
        """The document; FetchError when it cannot be had."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a provider takes what; empty for what it does not offer."""

    authorization: str = ""
    token: str = ""
    device_authorization: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    endpoints: Endpoints
    keys: tuple[Key, ...]
    at: float  # monotonic


class ProviderDocuments:
    """The documents of one provider."""

    def __init__(self, provider: OidcProvider, fetch: Fetch, clock: Clock) -> None:
        self._provider = provider
        self._fetch = fetch
        self._clock = clock
        self._published: _Published | None = None
        self._tried_at = -APART_S
        self._fetching = asyncio.Lock()

    async def endpoints(self) -> Endpoints:
        """Where the provider takes what. Raises Unavailable (PROVIDER_UNAVAILABLE)."""
        return (await self._current()).endpoints

    async def key(self, told: Unverified) -> Key:
        """The key that a token names. Raises TokenRefused, or Unavailable (PROVIDER_UNAVAILABLE)."""
        found = _choose((await self._current()).keys, told)
        if found is None:  # perhaps the provider has begun to sign with another
            await self._refresh(older_than=self._clock.monotonic())
            found = _choose((await self._current()).keys, told)
        if found is None:
            raise TokenRefused("no key of the provider has the id that the token names")
        return found

    async def _current(self) -> _Published:
        now = self._clock.monotonic()
        if self._published is None or now - self._published.at >= FRESH_S:
            await self._refresh(older_than=now - FRESH_S)
        if self._published is None or self._clock.monotonic() - self._published.at >= KEPT_S:
            raise Unavailable("PROVIDER_UNAVAILABLE", retry_after_s=APART_S, issuer=self._provider.issuer)
        return self._published

    async def _refresh(self, *, older_than: float) -> None:
        """Fetch unless somebody did so since; what is there stays when that fails."""
        async with self._fetching:
            if self._published is not None and self._published.at > older_than:
                return
            now = self._clock.monotonic()
            if now - self._tried_at < APART_S:
                return
            self._tried_at = now
            try:
                self._published = await self._fetched()
            except (FetchError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                told = str(error) if isinstance(error, FetchError | _Contradiction | OSError) else type(error).__name__
                log.error("provider's documents not fetched", issuer=self._provider.issuer, problem=told)

    async def _fetched(self) -> _Published:
        provider = self._provider
        if provider.jwks_file:
            document = await asyncio.to_thread(Path(provider.jwks_file).read_bytes)
            return _Published(endpoints=Endpoints(), keys=_keys(document), at=self._clock.monotonic())
        about = json.loads(await self._fetch.get(provider.issuer.rstrip("/") + _WELL_KNOWN))
        if about["issuer"] != provider.issuer:  # Discovery 1.0, 4.3: or another could speak for it
            raise _Contradiction("its discovery document names another issuer")
        if not isinstance(about["jwks_uri"], str):
            raise _Contradiction("jwks_uri is no URL")
        document = await self._fetch.get(about["jwks_uri"])
        return _Published(endpoints=_endpoints(about, provider), keys=_keys(document), at=self._clock.monotonic())


class _Contradiction(ValueError):
    """The documents contradict the configuration."""


def _endpoints(about: Mapping[str, Any], provider: OidcProvider) -> Endpoints:
    def checked(name: str) -> str:
        url = about.get(name, "")
        if not isinstance(url, str):
            raise _Contradiction(f"{name} is no URL")
        try:
            return checked_url(url, allow_http=provider.allow_http).geturl() if url else ""
        except UrlRefused as error:
            raise _Contradiction(f"{name}: {error}") from None

    return Endpoints(
        authorization=checked("authorization_endpoint"),
        token=checked("token_endpoint"),
        device_authorization=checked("device_authorization_endpoint"),
    )


def _keys(document: bytes) -> tuple[Key, ...]:
    listed = json.loads(document)["keys"]
    if not isinstance(listed, list):
        raise _Contradiction("its key set holds no list of keys")
    keys = (import_key(each) for each in listed[:_KEYS] if isinstance(each, dict))
    return tuple(key for key in keys if key is not None)


def _choose(keys: tuple[Key, ...], told: Unverified) -> Key | None:
    """The key of the id; the only key there is for a token that names none."""
    if not told.kid:
        return keys[0] if len(keys) == 1 else None
    named = [key for key in keys if key.kid == told.kid]
    return named[0] if len(named) == 1 else None
