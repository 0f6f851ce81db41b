"""Access tokens: verified once, then known by their digest until they expire or are revoked."""

import warnings
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import KeySet

from chassis.call import Principal
from chassis.clock import Clock
from lepton.errors import Unauthenticated, Unavailable

ALGORITHMS: Final = ["EdDSA"]
LEEWAY_S: Final = 30
# RFC 9864 renames the algorithm to Ed25519; Envoy and most verifiers still expect EdDSA.
warnings.filterwarnings("ignore", message="EdDSA is deprecated")

_CACHE_LIMIT: Final = 50_000
_TOKEN_LIMIT: Final = 4096
_ESSENTIAL: Final = {"essential": True}


class TokenVerifier:
    """Verifies EdDSA tokens of one issuer for one audience; both come with the policy."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic
        self._claims: dict[str, Any] = {}
        self._keys = KeySet([])
        self._known: dict[bytes, tuple[Principal, float]] = {}  # with the monotonic time until which it holds
        self._revoked_tokens: frozenset[str] = frozenset()
        self._revoked_sessions: frozenset[str] = frozenset()
        self._revoked_principals: Mapping[str, float] = {}

    def replace(
        self,
        *,
        jwks: Mapping[str, Any],
        issuer: str,
        audience: str,
        revoked_tokens: frozenset[str],
        revoked_sessions: frozenset[str],
        revoked_principals: Mapping[str, float],
    ) -> None:
        """Trust these keys for this issuer and audience, and refuse these tokens, from now on."""
        if not issuer or not audience:
            raise ValueError("a policy must name the issuer and the audience of access tokens")
        self._claims = {
            "iss": {"essential": True, "value": issuer},
            "aud": {"essential": True, "value": audience},
            **dict.fromkeys(("exp", "nbf", "iat", "sub", "jti"), _ESSENTIAL),
        }
        self._keys = KeySet.import_key_set(dict(jwks)) if jwks.get("keys") else KeySet([])  # type: ignore[arg-type]
        self._revoked_tokens = revoked_tokens
        self._revoked_sessions = revoked_sessions
        self._revoked_principals = revoked_principals
        self._known.clear()

    def verify(self, token: str) -> Principal:
        """The principal of a valid token, else Unauthenticated."""
        # Not SHA-256: without CPU support it takes twice as long, and this runs for every call.
        digest = blake2b(token.encode(), digest_size=32).digest()
        known = self._known.get(digest)
        if known is None:
            principal = self._decode(token)
            if len(self._known) >= _CACHE_LIMIT:
                self._forget()
            holds_s = principal.expires_at + LEEWAY_S - self._clock.now().timestamp()
            self._known[digest] = (principal, self._clock.monotonic() + holds_s)
            return principal
        if known[1] < self._monotonic():
            del self._known[digest]
            raise Unauthenticated("TOKEN_EXPIRED")
        return known[0]

    def is_revoked(self, principal: Principal) -> bool:
        """Whether the token that proved this principal is refused now."""
        return (
            principal.token_id in self._revoked_tokens
            or principal.session in self._revoked_sessions
            or principal.issued_at < self._revoked_principals.get(principal.name, 0.0)
        )

    def _decode(self, token: str) -> Principal:
        if not self._claims:
            raise Unavailable("POLICY_NOT_READY")
        if len(token) > _TOKEN_LIMIT:
            raise Unauthenticated("TOKEN_INVALID")
        now = int(self._clock.now().timestamp())
        try:
            claims = jwt.decode(token, self._keys, algorithms=ALGORITHMS).claims
            jwt.JWTClaimsRegistry(now=now, leeway=LEEWAY_S, **self._claims).validate(claims)
            principal = _principal(claims)
        except ExpiredTokenError as error:
            raise Unauthenticated("TOKEN_EXPIRED") from error
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise Unauthenticated("TOKEN_INVALID") from error
        if self.is_revoked(principal):
            raise Unauthenticated("TOKEN_REVOKED")
        return principal

    def _forget(self) -> None:
        """Make room: the expired first, then the oldest."""
        now = self._clock.monotonic()
        for digest in [digest for digest, (_, until) in self._known.items() if until < now]:
            del self._known[digest]
        for digest in list(self._known)[: max(0, len(self._known) - _CACHE_LIMIT * 9 // 10)]:
            del self._known[digest]


def _principal(claims: Mapping[str, Any]) -> Principal:
    for name in ("exp", "nbf", "iat"):
        if not isinstance(claims[name], int | float) or isinstance(claims[name], bool):
            raise TypeError(name)
    for name in ("sub", "jti"):
        if not isinstance(claims[name], str) or not claims[name]:
            raise TypeError(name)
    if claims["sub"].startswith("spiffe://"):
        raise ValueError("a token never speaks for a peer of the mesh")
    return Principal(
        name=claims["sub"],
        token_id=claims["jti"],
        session=str(claims.get("sid", "")),
        issued_at=float(claims["iat"]),
        expires_at=float(claims["exp"]),
        projects=tuple(map(str, claims.get("projects", ()))),
    )
