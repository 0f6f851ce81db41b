"""The device flow (RFC 8628): the person signs in on another device, with a code to type."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from lepton.auth.v1.federation_service_pb2 import IdentityProvider
from lepton.oidc.token_endpoint import Answer, post, refused

_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_INTERVAL_S: Final = 5.0
_SLOWER_S: Final = 5.0
_LONGEST_S: Final = 1800.0

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """What the person is told, and what is asked with."""

    user_code: str
    uri: str
    uri_with_code: str
    device_code: str = field(repr=False)
    interval_s: float
    expires_s: float


async def begin(provider: IdentityProvider) -> DeviceCode:
    """Ask for a code. Raises Unauthenticated (PROVIDER_REFUSED), Unavailable (PROVIDER_UNAVAILABLE)."""
    if not provider.device_authorization_endpoint:
        raise refused("it has no device flow")
    form = {
        "client_id": provider.client_id,
        "client_secret": provider.public_client_secret,
        "scope": " ".join(provider.scopes),
    }
    answer = await asyncio.to_thread(post, provider.device_authorization_endpoint, form)
    if answer.error:
        raise refused(answer.error)
    return DeviceCode(
        user_code=answer.text("user_code"),
        uri=answer.text("verification_uri"),
        uri_with_code=str(answer.document.get("verification_uri_complete", "")),
        device_code=answer.text("device_code"),
        interval_s=_seconds(answer, "interval", _INTERVAL_S),
        expires_s=_seconds(answer, "expires_in", _LONGEST_S),
    )


async def wait(provider: IdentityProvider, code: DeviceCode, sleep: Sleep = asyncio.sleep) -> str:
    """The ID token, once the person has signed in. Raises Unauthenticated (PROVIDER_REFUSED)."""
    form = {
        "grant_type": _GRANT,
        "device_code": code.device_code,
        "client_id": provider.client_id,
        "client_secret": provider.public_client_secret,
    }
    interval_s, waited_s = code.interval_s, 0.0
    while waited_s < code.expires_s:
        await sleep(interval_s)
        waited_s += interval_s
        answer = await asyncio.to_thread(post, provider.token_endpoint, form)
        if not answer.error:
            return answer.text("id_token")
        if answer.error == "slow_down":
            interval_s += _SLOWER_S
        elif answer.error != "authorization_pending":
            raise refused(answer.error)
    raise refused("expired_token")


def _seconds(answer: Answer, name: str, otherwise: float) -> float:
    value = answer.document.get(name, otherwise)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return min(float(value), _LONGEST_S) if is_number and value > 0 else otherwise
