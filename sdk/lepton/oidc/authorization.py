"""The authorisation code flow of an installed application (RFC 8252): PKCE (RFC 7636), state, nonce, loopback redirect.

begun = Authorization.begin(provider, redirect_uri)
open_in_a_browser(begun.url)
code = begun.code(query_of_the_redirect)
id_token = begun.exchange(code)
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlencode

from lepton.auth.v1.federation_service_pb2 import IdentityProvider
from lepton.oidc.token_endpoint import post, refused

_BYTES: Final = 32


class ForeignRedirect(Exception):
    """A redirect that does not belong to this flow; it is answered and otherwise ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """One flow, with the secrets that only this process knows."""

    provider: IdentityProvider
    redirect_uri: str
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)

    @classmethod
    def begin(cls, provider: IdentityProvider, redirect_uri: str) -> Self:
        """A new flow."""
        state, nonce, verifier = (secrets.token_urlsafe(_BYTES) for _ in range(3))
        return cls(provider=provider, redirect_uri=redirect_uri, state=state, nonce=nonce, verifier=verifier)

    @property
    def url(self) -> str:
        """Where the person signs in."""
        asked = {
            "response_type": "code",
            "client_id": self.provider.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": " ".join(self.provider.scopes),
            "state": self.state,
            "nonce": self.nonce,
            "code_challenge": challenge(self.verifier),
            "code_challenge_method": "S256",
        }
        endpoint = self.provider.authorization_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    def code(self, query: Mapping[str, str]) -> str:
        """The code in a redirect. Raises ForeignRedirect for another flow's, Unauthenticated (PROVIDER_REFUSED)."""
        if not hmac.compare_digest(query.get("state", "").encode(), self.state.encode()):
            raise ForeignRedirect
        if query.get("iss", self.provider.issuer) != self.provider.issuer:  # RFC 9207: mixed-up providers
            raise refused("the redirect came from another issuer")
        if "error" in query:
            raise refused(query["error"])
        if not query.get("code"):
            raise refused("the redirect has no code")
        return query["code"]

    def exchange(self, code: str) -> str:
        """The ID token for a code. Raises Unauthenticated (PROVIDER_REFUSED), Unavailable (PROVIDER_UNAVAILABLE)."""
        answer = post(
            self.provider.token_endpoint,
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self.redirect_uri,
                "client_id": self.provider.client_id,
                "client_secret": self.provider.public_client_secret,
                "code_verifier": self.verifier,
            },
        )
        if answer.error:
            raise refused(answer.error)
        return answer.text("id_token")


def challenge(verifier: str) -> str:
    """What proves, without giving it away, that the verifier is known: S256 of RFC 7636, 4.2."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
