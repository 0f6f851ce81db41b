"""Access tokens: verified once, then known until they expire or are revoked."""

import json
import re
import warnings
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from chassis.call import Principal
from chassis.clock import Clock
from lepton.errors import Unauthenticated, Unavailable

ALGORITHM: Final = "EdDSA"
LEEWAY_S: Final = 30
# RFC 9864 renames the algorithm to Ed25519; Envoy and most verifiers still expect EdDSA, so that auth signs with it.
warnings.filterwarnings("ignore", message="EdDSA is deprecated")

_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_CACHE_LIMIT: Final = 50_000
_TOKEN_LIMIT: Final = 4096
_HEADERS_LIMIT: Final = 64
# A compact JWS with an Ed25519 signature, without padding. What else a library reads leniently is not looked at.
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}", re.ASCII)
# Keys are chosen by their id among those that the policy names. Headers that bring, name or locate a key (jwk, jku,
# x5c, x5u), change the meaning of the rest (crit, b64) or are not ours are refused.
_HEADERS: Final = frozenset({"alg", "kid", "typ"})


class TokenVerifier:
    """Verifies EdDSA tokens of one issuer for one audience; both come with the policy."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic
        self._issuer = self._audience = ""
        self._jwks: Mapping[str, Any] = {}
        self._keys: Mapping[str, Ed25519PublicKey] = {}
        self._headers: dict[str, Ed25519PublicKey] = {}  # spelled as they come, with the key that they name
        self._known: dict[str, tuple[Principal, float]] = {}  # with the monotonic time until which it holds
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
        trusted = (issuer, audience, jwks)
        is_same = trusted == (self._issuer, self._audience, self._jwks)
        self._issuer, self._audience, self._jwks = trusted
        if not is_same:
            self._keys = _keys(jwks)
            self._headers.clear()
        self._revoked_tokens = revoked_tokens
        self._revoked_sessions = revoked_sessions
        self._revoked_principals = revoked_principals
        # A change of roles, or the revocation of one session, must not have every other token verified anew at once.
        self._known = {
            token: known for token, known in self._known.items() if is_same and not self.is_revoked(known[0])
        }

    def verify(self, token: str) -> Principal:
        """The principal of a valid token, else Unauthenticated."""
        # Not by a digest: to make one takes longer than all the rest of a decision, and gRPC keeps the headers of open
        # connections in this memory as well.
        known = self._known.get(token)
        if known is not None:
            if known[1] < self._monotonic():
                del self._known[token]
                raise Unauthenticated("TOKEN_EXPIRED")
            return known[0]
        principal = self._decode(token)
        if len(self._known) >= _CACHE_LIMIT:
            self._forget()
        holds_s = principal.expires_at + LEEWAY_S - self._clock.now().timestamp()
        self._known[token] = (principal, self._clock.monotonic() + holds_s)
        return principal

    def is_revoked(self, principal: Principal) -> bool:
        """Whether the token that proved this principal is refused now."""
        return (
            principal.token_id in self._revoked_tokens
            or principal.session in self._revoked_sessions
            or principal.issued_at < self._revoked_principals.get(principal.name, 0.0)
        )

    def _decode(self, token: str) -> Principal:
        if not self._issuer:
            raise Unavailable("POLICY_NOT_READY")
        if len(token) > _TOKEN_LIMIT or not _SHAPE.fullmatch(token):
            raise Unauthenticated("TOKEN_INVALID")
        try:
            principal = self._checked(self._signed_claims(token))
        except (InvalidSignature, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise Unauthenticated("TOKEN_INVALID") from error
        if principal.expires_at + LEEWAY_S < self._clock.now().timestamp():
            raise Unauthenticated("TOKEN_EXPIRED")
        if self.is_revoked(principal):
            raise Unauthenticated("TOKEN_REVOKED")
        return principal

    def _signed_claims(self, token: str) -> Any:
        """What one of our keys has signed. The algorithm is ours to know; the token only names the key."""
        signed, _, signature = token.rpartition(".")
        header, _, payload = signed.partition(".")
        key = self._headers.get(header) or self._key_of(header)
        key.verify(_decoded(signature), signed.encode())
        return json.loads(_decoded(payload))

    def _key_of(self, header: str) -> Ed25519PublicKey:
        fields = json.loads(_decoded(header))
        if not isinstance(fields, dict) or not _HEADERS.issuperset(fields) or fields.get("typ", "JWT") != "JWT":
            raise ValueError("header")
        if fields.get("alg") != ALGORITHM:
            raise ValueError("algorithm")
        key = self._keys[fields["kid"]]
        if len(self._headers) >= _HEADERS_LIMIT:
            self._headers.clear()
        self._headers[header] = key
        return key

    def _checked(self, claims: Any) -> Principal:
        """The principal of claims that hold, but for the expiry."""
        if not isinstance(claims, dict) or claims["iss"] != self._issuer or claims["aud"] != self._audience:
            raise ValueError("not for us")
        latest = self._clock.now().timestamp() + LEEWAY_S
        if claims["nbf"] > latest or claims["iat"] > latest:
            raise ValueError("not yet")
        return _principal(claims)

    def _forget(self) -> None:
        """Make room: the expired first, then the oldest."""
        now = self._clock.monotonic()
        for token in [token for token, (_, until) in self._known.items() if until < now]:
            del self._known[token]
        for token in list(self._known)[: max(0, len(self._known) - _CACHE_LIMIT * 9 // 10)]:
            del self._known[token]


def _keys(jwks: Mapping[str, Any]) -> Mapping[str, Ed25519PublicKey]:
    """The Ed25519 keys of a JWKS, by id; what else is in it verifies nothing."""
    return {
        key["kid"]: Ed25519PublicKey.from_public_bytes(_decoded(key["x"]))
        for key in jwks.get("keys", ())
        if key.get("kty") == "OKP" and key.get("crv") == "Ed25519" and key.get("kid")
    }


def _decoded(part: str) -> bytes:
    """The bytes of a part in its one spelling: another differs in the last bits, which nobody reads."""
    padded = part.encode() + b"=" * (-len(part) % 4)
    content = a2b_base64(padded.translate(_STANDARD))
    if b2a_base64(content, newline=False).translate(_URL_SAFE) != padded:
        raise ValueError("spelling")
    return content


def _principal(claims: Mapping[str, Any]) -> Principal:
    for name in ("exp", "nbf", "iat"):
        if type(claims[name]) is not int:  # neither a string nor true, NaN or Infinity
            raise TypeError(name)
    for name in ("sub", "jti"):
        if not isinstance(claims[name], str) or not claims[name]:
            raise TypeError(name)
    if claims["sub"].startswith("spiffe://"):
        raise ValueError("a token never speaks for a peer of the mesh")
    return Principal(
        name=claims["sub"],
        token_id=claims["jti"],
        session=_text(claims, "sid"),
        issued_at=float(claims["iat"]),
        expires_at=float(claims["exp"]),
        projects=_texts(claims, "projects"),
        permissions=_texts(claims, "permissions"),
        within=_text(claims, "within"),
    )


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _texts(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = claims.get(name, [])
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise TypeError(name)
    return tuple(values)
