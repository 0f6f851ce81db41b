"""From a provider to an ID token: by the browser of this machine, or by another device."""

import asyncio
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from lepton.auth.v1.federation_service_pb2 import IdentityProvider
from lepton.errors import InvalidArgument, NotFound, Unavailable
from lepton.oidc import device
from lepton.oidc.authorization import Authorization
from lepton.oidc.loopback import loopback
from lepton.oidc.token_endpoint import refused

PATIENCE_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What auth is given."""

    id_token: str
    nonce: str = ""


def choose(providers: Sequence[IdentityProvider], name: str) -> IdentityProvider:
    """The provider of a name, or the only one. NotFound, InvalidArgument (PROVIDER_AMBIGUOUS), Unavailable."""
    found = [each for each in providers if name in ("", each.provider)]
    if not found:
        raise NotFound("PROVIDER_NOT_FOUND", provider=name or "with which people sign in")
    if len(found) > 1:
        names = ", ".join(each.provider for each in found)
        raise InvalidArgument("PROVIDER_AMBIGUOUS", providers=names)
    if not found[0].token_endpoint:
        raise Unavailable("PROVIDER_UNAVAILABLE", issuer=found[0].issuer)
    return found[0]


async def in_browser(
    provider: IdentityProvider, tell: Callable[[str], None], *, port: int = 0, opens: bool = True
) -> Proof:
    """Have the person sign in with a browser on this machine. Raises Unauthenticated (PROVIDER_REFUSED)."""
    async with loopback(port) as page:
        flow = Authorization.begin(provider, page.redirect_uri)
        page.expect(flow)
        tell(f"sign in at {provider.display_name}:\n{flow.url}")
        if opens:
            await asyncio.to_thread(webbrowser.open, flow.url)
        try:
            async with asyncio.timeout(PATIENCE_S):
                code = await page.code()
        except TimeoutError:
            raise refused(f"nobody signed in within {PATIENCE_S:g} s") from None
        id_token = await asyncio.to_thread(flow.exchange, code)
    return Proof(id_token=id_token, nonce=flow.nonce)


async def on_device(provider: IdentityProvider, tell: Callable[[str], None]) -> Proof:
    """Have the person sign in on any device. Raises Unauthenticated (PROVIDER_REFUSED)."""
    code = await device.begin(provider)
    tell(f"go to {code.uri} and enter {code.user_code}")
    if code.uri_with_code:
        tell(f"or go to {code.uri_with_code}")
    return Proof(id_token=await device.wait(provider, code))
