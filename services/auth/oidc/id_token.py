"""ID tokens: whether one holds, by the rules of OpenID Connect Core 1.0 (3.1.3.7) and RFC 8725; pure.

The first rule that does not hold ends it. What it was is for the log: whoever sent the token hears one text for all.
"""

import hashlib
import json
import re
import warnings
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from chassis.tokens import LEEWAY_S
from services.auth.oidc.settings import ALGORITHMS, OidcProvider

Key = RSAKey | ECKey | OKPKey
Claims = Mapping[str, Any]

TOKEN_LIMIT: Final = 16 << 10
_SUBJECT: Final = re.compile(r"[ -~]{1,255}", re.ASCII)  # OpenID Connect Core 1.0, section 2: ASCII, 255 at the most
# Headers that bring or locate a key (jwk, jku, x5c, x5u), or change the meaning of the rest (crit, b64, zip), are
# refused. x5t only names a certificate, which nobody looks for.
_HEADERS: Final = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
_RSA_BITS: Final = 2048


class TokenRefused(Exception):
    """The token does not hold; the message is for the log and holds nothing secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """What a token says of itself, to find the provider and the key that it is held against."""

    issuer: str
    kid: str
    algorithm: str


def read(token: str) -> Unverified:
    """Who issued the token, as it says; TokenRefused when it is no token at all."""
    header, claims = _parts(token)
    if not _HEADERS.issuperset(header):
        raise TokenRefused(f"header {min(set(header) - _HEADERS)[:32]!r} is not taken")
    if header.get("typ", "JWT") not in ("JWT", "jwt"):
        raise TokenRefused(f"a token of type {str(header['typ'])[:32]!r} is no ID token")
    kid = header.get("kid", "")
    if not isinstance(kid, str) or not isinstance(header.get("alg"), str) or not isinstance(claims.get("iss"), str):
        raise TokenRefused("alg, kid or iss is missing or of the wrong kind")
    return Unverified(issuer=claims["iss"], kid=kid, algorithm=header["alg"])


def verify(token: str, key: Key, provider: OidcProvider, now: float) -> Claims:
    """The claims of a token that the key signed and that is in force; for whom it is, the caller has yet to check."""
    told = read(token)
    if told.algorithm not in provider.algorithms or ALGORITHMS[told.algorithm] != key.key_type:
        raise TokenRefused(f"algorithm {told.algorithm[:16]!r} is not taken with this key")
    if key.as_dict(private=False).get("alg", told.algorithm) != told.algorithm:
        raise TokenRefused("the key is for another algorithm")
    try:
        content = jws.deserialize_compact(token, key, algorithms=[told.algorithm]).payload
        claims = json.loads(content)
    except (JoseError, ValueError, RecursionError) as error:
        raise TokenRefused(f"the signature does not hold: {type(error).__name__}") from None
    _in_force(claims, provider, now)
    return dict(claims)


def for_person(claims: Claims, provider: OidcProvider, nonce: str) -> None:
    """TokenRefused unless the token was issued to Lepton's client, for the sign-in of this nonce."""
    if not provider.client_id:
        raise TokenRefused("the provider is not for people: it has no client_id")
    audiences = _audiences(claims)
    if provider.client_id not in audiences:
        raise TokenRefused("the audience is another client")
    if others := set(audiences) - {provider.client_id, *provider.other_audiences}:
        raise TokenRefused(f"the audience {min(others)[:64]!r} beside the client is not trusted")
    if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != provider.client_id:
        raise TokenRefused("the authorised party (azp) is another client")
    if claims.get("nonce", "") != nonce:
        raise TokenRefused("the nonce is another")
    if claims.get("typ", "ID") != "ID":  # Keycloak's access tokens are signed with the same key
        raise TokenRefused("it is no ID token by its claim typ")


def for_workload(claims: Claims, audience: str) -> bool:
    """Whether the token was issued for this audience and no other."""
    return _audiences(claims) == [audience]


def digest(token: str) -> str:
    """What a token is known by: its signed part, since a signature may have several texts."""
    return hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()


def verified_email(claims: Claims) -> str:
    """The address that the provider has verified; TokenRefused without one."""
    email = claims.get("email")
    if not isinstance(email, str) or claims.get("email_verified") is not True:  # not "true": that is somebody's input
        raise TokenRefused("the provider has not verified the e-mail address")
    if not email.isascii() or email.count("@") != 1:
        raise TokenRefused("the e-mail address is none that can be matched")
    return email.lower()


def groups(claims: Claims, claim: str) -> frozenset[str]:
    """The groups that the token names; none when it has no such claim."""
    value = claims.get(claim, [])
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TokenRefused(f"claim {claim} is not a list of groups")
    return frozenset(value)


def import_key(document: Mapping[str, Any]) -> Key | None:
    """A key of a JWKS, its public half; None for what signs no ID tokens that are taken here."""
    kinds: Mapping[str, type[Key]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    kind = kinds.get(str(document.get("kty")))
    if kind is None or document.get("use", "sig") != "sig":
        return None
    public = {name: document[name] for name in ("kty", "n", "e", "crv", "x", "y", "kid", "alg") if name in document}
    try:
        with warnings.catch_warnings(action="ignore", category=SecurityWarning):  # short keys are refused below
            key = kind.import_key(public)
        bits = key.raw_value.key_size if isinstance(key, RSAKey) else _RSA_BITS
    except (JoseError, ValueError, TypeError):
        return None
    return key if bits >= _RSA_BITS else None


def _in_force(claims: Any, provider: OidcProvider, now: float) -> None:
    if not isinstance(claims, dict) or claims.get("iss") != provider.issuer:
        raise TokenRefused("the issuer is another")
    for name in ("exp", "iat", "nbf"):
        if name in claims and type(claims[name]) is not int:  # neither text nor true, NaN or infinity
            raise TokenRefused(f"{name} is not a whole number")
    if "exp" not in claims or "iat" not in claims:
        raise TokenRefused("exp or iat is missing")
    if claims["exp"] + LEEWAY_S < now:
        raise TokenRefused("it has expired")
    if max(claims["iat"], claims.get("nbf", 0)) > now + LEEWAY_S:
        raise TokenRefused("it is not valid yet")
    if claims["iat"] + provider.max_age_s + LEEWAY_S < now:
        raise TokenRefused(f"it was issued more than {provider.max_age_s} s ago")
    if not isinstance(claims.get("sub"), str) or not _SUBJECT.fullmatch(claims["sub"]):
        raise TokenRefused("sub is missing or malformed")


def _audiences(claims: Claims) -> list[str]:
    value = claims.get("aud")
    audiences = [value] if isinstance(value, str) else value
    if not isinstance(audiences, list) or not audiences or not all(isinstance(each, str) for each in audiences):
        raise TokenRefused("aud is missing or of the wrong kind")
    return audiences


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    pieces = token.split(".")
    if len(token) > TOKEN_LIMIT or len(pieces) != 3 or not all(pieces):
        raise TokenRefused("it is no compact JWS with a signature")
    try:
        header, claims = (json.loads(_decoded(piece)) for piece in pieces[:2])
        _decoded(pieces[2])
    except (ValueError, RecursionError) as error:
        raise TokenRefused(f"it cannot be read: {type(error).__name__}") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise TokenRefused("header or claims are no object")
    return header, claims


def _decoded(part: str) -> bytes:
    """The bytes of a part in its one spelling (RFC 7515, without padding), so that a token has one text."""
    content = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if urlsafe_b64encode(content).rstrip(b"=") != part.encode():
        raise ValueError("spelling")
    return content
