"""Access tokens: EdDSA-signed JWTs of five minutes that say who calls and in which projects they have a role."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from joserfc import jwt

from chassis.clock import Clock
from services.auth.keys import ALGORITHM, SigningKey

_MAX_PROJECT_BYTES: Final = 2048  # keeps the token under 4 KB; it informs clients: whoever serves decides by the policy


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """A token and when it stops working."""

    token: str
    expires: datetime


class AccessTokens:
    """Issues tokens of one issuer for one audience."""

    def __init__(
        self, signing_key: Callable[[], SigningKey], *, issuer: str, audience: str, lifetime: timedelta, clock: Clock
    ) -> None:
        if not issuer or not audience:
            raise ValueError(
                "tokens.issuer and tokens.audience must be set: tokens without them would be valid anywhere"
            )
        self._signing_key = signing_key
        self._issuer = issuer
        self._audience = audience
        self._lifetime = lifetime
        self._clock = clock

    def issue(
        self,
        principal: str,
        session: str,
        projects: Iterable[str],
        *,
        permissions: Iterable[str] = (),
        within: str = "",
    ) -> AccessToken:
        """A token for a principal that has just proved who they are; the limits take away from its roles."""
        now = self._clock.now().replace(microsecond=0)
        expires = now + self._lifetime
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": principal,
            "jti": secrets.token_hex(16),
            "sid": session,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int(expires.timestamp()),
            "projects": _fitting(projects),
        }
        if permissions:
            claims["permissions"] = sorted(permissions)
        if within:
            claims["within"] = within
        key = self._signing_key()
        header = {"typ": "JWT", "alg": ALGORITHM, "kid": key.kid}
        return AccessToken(token=jwt.encode(header, claims, key.key, algorithms=[ALGORITHM]), expires=expires)


def _fitting(projects: Iterable[str]) -> list[str]:
    fitting: list[str] = []
    left = _MAX_PROJECT_BYTES
    for project in sorted(projects):
        left -= len(project) + 3
        if left < 0:
            break
        fitting.append(project)
    return fitting
