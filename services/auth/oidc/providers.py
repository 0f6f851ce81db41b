"""The configured providers: which of them issued a token, and whether the token holds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from chassis.clock import Clock
from chassis.fetching import Fetcher
from chassis.logs import logger
from lepton.auth.v1.federation_service_pb2 import IdentityProvider
from lepton.errors import Unavailable
from services.auth.oidc.documents import Endpoints, Fetch, ProviderDocuments
from services.auth.oidc.id_token import Claims, TokenRefused, read, verify
from services.auth.oidc.settings import OidcProvider

log = logger(__name__)

FetchFor = Callable[[OidcProvider], Fetch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A token that holds, of a provider."""

    name: str
    provider: OidcProvider
    claims: Claims

    @property
    def subject(self) -> str:
        """Whom it is about."""
        return str(self.claims["sub"])


def fetch_by_rules(provider: OidcProvider) -> Fetch:
    """Fetches what the provider's settings allow."""
    return Fetcher(provider.rules)


class Providers:
    """Knows tokens by their issuer: that text, exactly, and nothing like it."""

    def __init__(
        self, providers: Mapping[str, OidcProvider], clock: Clock, fetch_for: FetchFor = fetch_by_rules
    ) -> None:
        self._providers = dict(sorted(providers.items()))
        self._clock = clock
        self._names = {provider.issuer: name for name, provider in providers.items()}
        self._documents = {
            name: ProviderDocuments(provider, fetch_for(provider), clock) for name, provider in providers.items()
        }

    def get(self, name: str) -> OidcProvider | None:
        """A provider by its name."""
        return self._providers.get(name)

    def of_issuer(self, issuer: str) -> OidcProvider | None:
        """The provider of an issuer."""
        return self._providers.get(self._names.get(issuer, ""))

    def name_of(self, issuer: str) -> str:
        """What the provider of an issuer is called; empty when it is no longer configured."""
        return self._names.get(issuer, "")

    async def verified(self, token: str) -> Verified:
        """A token of one of the providers. Raises TokenRefused, or Unavailable (PROVIDER_UNAVAILABLE)."""
        told = read(token)
        name = self._names.get(told.issuer)
        if name is None:
            raise TokenRefused("the issuer is none that is configured")
        provider = self._providers[name]
        if told.algorithm not in provider.algorithms:  # before a key is looked for, and perhaps fetched
            raise TokenRefused(f"algorithm {told.algorithm[:16]!r} is not taken")
        key = await self._documents[name].key(told)
        claims = verify(token, key, provider, self._clock.now().timestamp())
        return Verified(name=name, provider=provider, claims=claims)

    async def for_people(self) -> list[IdentityProvider]:
        """What clients have to know to send people there; without endpoints where a provider does not answer now."""
        return [await self._shown(name, provider) for name, provider in self._with_client()]

    def _with_client(self) -> Iterator[tuple[str, OidcProvider]]:
        return ((name, each) for name, each in self._providers.items() if each.client_id)

    async def _shown(self, name: str, provider: OidcProvider) -> IdentityProvider:
        try:
            endpoints = await self._documents[name].endpoints()
        except Unavailable:
            endpoints = Endpoints()
        return IdentityProvider(
            provider=name,
            display_name=provider.display_name or name,
            issuer=provider.issuer,
            client_id=provider.client_id,
            public_client_secret=provider.public_client_secret,
            scopes=provider.scopes,
            authorization_endpoint=endpoints.authorization,
            token_endpoint=endpoints.token,
            device_authorization_endpoint=endpoints.device_authorization,
        )
