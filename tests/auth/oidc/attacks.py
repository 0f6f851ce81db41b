"""ID tokens that must not sign anybody in, by the part of the verification that has to notice."""

import base64
import hmac
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tests.harness.oidc import CLIENT, Minter

Forge = Callable[[Minter], str]
NONCE = "the-nonce"


def encoded(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def unsigned(minter: Minter, header: dict[str, Any], signature: str = "") -> str:
    return f"{encoded(header)}.{encoded(minter.claims(nonce=NONCE))}.{signature}"


def by_public_key(form: str) -> Forge:
    """Key confusion: HMAC with what everybody knows."""

    def forge(minter: Minter) -> str:
        key = minter.key
        secret = key.as_pem(private=False) if form == "pem" else json.dumps(key.as_dict(private=False)).encode()
        signed = unsigned(minter, {"alg": "HS256", "kid": key.kid}).rstrip(".")
        tag = hmac.digest(secret, signed.encode(), "sha256")
        return f"{signed}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}"

    return forge


def with_header(**header: Any) -> Forge:
    return lambda minter: minter.token(nonce=NONCE, header=header)


def with_claims(**claims: Any) -> Forge:
    return lambda minter: minter.token(**{"nonce": NONCE, **claims})


def at(name: str, offset_s: int, **also: Any) -> Forge:
    return lambda minter: minter.token(**{"nonce": NONCE, name: int(time.time()) + offset_s, **also})


def foreign(minter: Minter) -> str:
    return minter.token(nonce=NONCE, key=RSAKey.generate_key(2048, {"kid": minter.key.kid}))


def own_key(minter: Minter) -> str:
    key = RSAKey.generate_key(2048, {"kid": "mine"})
    return minter.token(nonce=NONCE, key=key, header={"jwk": key.as_dict(private=False)})


def altered(minter: Minter) -> str:
    header, _, signature = minter.token(nonce=NONCE).split(".")
    return f"{header}.{encoded(minter.claims(nonce=NONCE, sub='admin'))}.{signature}"


def respelled(minter: Minter) -> str:
    """The same signature in other letters: the last one has bits that nobody reads."""
    token = minter.token(nonce=NONCE)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + letters[letters.index(token[-1]) ^ 1]


HEADERS: dict[str, Forge] = {
    "alg none": lambda minter: unsigned(minter, {"alg": "none"}),
    "alg nOnE with a signature": lambda minter: unsigned(minter, {"alg": "nOnE", "kid": "one"}, "AAAA"),
    "HS256 by the public key, PEM": by_public_key("pem"),
    "HS256 by the public key, JWK": by_public_key("jwk"),
    "an algorithm that is not allowed": with_header(alg="RS512"),
    "an own key in jwk": own_key,
    "jku": with_header(jku="https://attacker.test/keys"),
    "x5u": with_header(x5u="https://attacker.test/cert"),
    "x5c": with_header(x5c=["AAAA"]),
    "crit": with_header(crit=["exp"], exp=1),
    "b64": with_header(b64=False, crit=["b64"]),
    "zip": with_header(zip="DEF"),
    "an access token by its type": with_header(typ="at+jwt"),
    "a logout token by its type": with_header(typ="logout+jwt"),
    "a kid that leads to a file": with_header(kid="../../etc/passwd"),
    "a kid nobody has": with_header(kid="two"),
    "padded": lambda minter: minter.token(nonce=NONCE) + "==",
    "respelled": respelled,
    "one part": lambda _: "abc",
    "two parts": lambda minter: minter.token(nonce=NONCE).rpartition(".")[0],
    "four parts": lambda minter: minter.token(nonce=NONCE) + ".AAAA",
    "no object": lambda _: f"{encoded([])}.{encoded(1)}.AAAA",
    "deep": lambda _: f"{base64.urlsafe_b64encode(b'[' * 8000).decode()}.AAAA.AAAA",
    "not text": lambda _: "\x00.\u2603.x",
}
SIGNATURES: dict[str, Forge] = {
    "a foreign key of the same id": foreign,
    "altered claims": altered,
    "a short signature": lambda minter: minter.token(nonce=NONCE)[:-2],
}
IN_FORCE: dict[str, Forge] = {
    "no exp": with_claims(exp=None),
    "expired": at("exp", -60),
    "exp as text": with_claims(exp="9999999999"),
    "exp as true": with_claims(exp=True),
    "exp as a fraction": with_claims(exp=9999999999.5),
    "exp infinite": with_claims(exp=float("inf")),
    "no iat": with_claims(iat=None),
    "issued in the future": at("iat", 120),
    "issued long ago": at("iat", -2 * 3600),
    "iat as text": with_claims(iat="1"),
    "not yet valid": at("nbf", 120),
    "nbf as text": with_claims(nbf="0"),
    "no sub": with_claims(sub=None),
    "an empty sub": with_claims(sub=""),
    "a number as sub": with_claims(sub=7),
    "a sub that is not ASCII": with_claims(sub="alic\u0435-1"),
    "a long sub": with_claims(sub="a" * 256),
}
FOR_WHOM: dict[str, Forge] = {
    "no aud": with_claims(aud=None),
    "another client": with_claims(aud="another"),
    "a client that begins alike": with_claims(aud=CLIENT + "-2"),
    "an empty list": with_claims(aud=[]),
    "aud as an object": with_claims(aud={CLIENT: 1}),
    "a stranger beside us": with_claims(aud=[CLIENT, "stranger"], azp=CLIENT),
    "two audiences and no azp": with_claims(aud=[CLIENT, "known"]),
    "azp is another": with_claims(azp="another"),
    "another nonce": with_claims(nonce="another"),
    "no nonce": with_claims(nonce=None),
    "nonce as a list": with_claims(nonce=[NONCE]),
    "Keycloak's access token": with_claims(typ="Bearer"),
}
ISSUERS: dict[str, Forge] = {
    "another issuer": with_claims(iss="https://attacker.test"),
    "a slash more": with_claims(iss="https://login.test/"),
    "capitals": with_claims(iss="https://LOGIN.test"),
    "a list": with_claims(iss=["https://login.test"]),
    "none": with_claims(iss=None),
}
with warnings.catch_warnings(action="ignore", category=SecurityWarning):
    WEAK = RSAKey.generate_key(1024, {"kid": "weak"})
CURVE = ECKey.generate_key("P-256", {"kid": "curve"})
EDWARDS = OKPKey.generate_key("Ed25519", {"kid": "edwards"})
