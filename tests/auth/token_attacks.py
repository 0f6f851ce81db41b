"""Forged access tokens, and a verifier that can be made as careless as those that fell to each of them."""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LEEWAY_S = 30
KNOWN_HEADERS = {"alg", "kid", "typ"}
CLAIM_CHECKS = ("iss", "aud", "exp", "nbf", "iat", "sub", "jti")


def b64(content: bytes | str | Mapping[str, Any] | list[Any]) -> str:
    if isinstance(content, Mapping | list):
        content = json.dumps(content)
    if isinstance(content, str):
        content = content.encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def unb64(part: str) -> bytes:
    """As carelessly as most libraries: whatever is no base64 is left out, padding is taken as it comes."""
    clean = re.sub(r"[^A-Za-z0-9_-]", "", part)
    return base64.urlsafe_b64decode(clean + "=" * (-len(clean) % 4))


@dataclass(frozen=True, kw_only=True)
class Forge:
    """What an attacker has, and for the attacks on claims what only auth has: its key."""

    private: Ed25519PrivateKey
    kid: str
    claims: Mapping[str, Any]  # of a token that auth has just issued
    genuine: str
    own: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    @property
    def own_jwk(self) -> dict[str, str]:
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(self.own.public_key().public_bytes_raw())}

    def header(self, **changes: Any) -> dict[str, Any]:
        full = {"typ": "JWT", "alg": "EdDSA", "kid": self.kid, **changes}
        return {name: value for name, value in full.items() if value is not None}

    def signed(
        self,
        header: Mapping[str, Any] | str | None = None,
        key: Ed25519PrivateKey | bytes | None = None,
        payload: str | None = None,
        **claims: Any,
    ) -> str:
        """A token signed with auth's key unless another is given; bytes make an HMAC. A claim of None is left out."""
        changed = {name: value for name, value in {**self.claims, **claims}.items() if value is not None}
        body = f"{b64(self.header() if header is None else header)}.{b64(changed) if payload is None else payload}"
        key = key if key is not None else self.private
        if isinstance(key, bytes):
            return f"{body}.{b64(hmac.digest(key, body.encode(), 'sha256'))}"
        return f"{body}.{b64(key.sign(body.encode()))}"

    def unsigned(self, alg: str) -> str:
        return f"{b64(self.header(alg=alg))}.{b64(self.claims)}."


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A token that must be refused, and the checks without which a verifier takes it."""

    name: str
    forge: Callable[[Forge], str]
    without: frozenset[str]


def attack(name: str, without: str, forge: Callable[[Forge], str]) -> Attack:
    return Attack(name=name, forge=forge, without=frozenset(without.split()))


def _pem(forge: Forge) -> bytes:
    return forge.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _jwk(forge: Forge) -> bytes:
    return json.dumps({"kty": "OKP", "crv": "Ed25519", "x": b64(forge.public)}).encode()


def _respelled(token: str) -> str:
    """The same bytes: the last character of an Ed25519 signature carries two bits only."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def _now(offset: int) -> int:
    return int(time.time()) + offset


SQL_KID = "x' UNION SELECT 'the attackers own secret"

ATTACKS: tuple[Attack, ...] = (
    *(
        attack(f"alg {alg}", "spelling algorithm", lambda f, alg=alg: f.unsigned(alg))
        for alg in ("none", "None", "NONE", "nOnE")
    ),
    attack("alg none, signature kept", "algorithm", lambda f: f.signed(f.header(alg="none"), f.own)),
    attack("alg empty", "spelling algorithm", lambda f: f.unsigned("")),
    attack("alg missing", "spelling algorithm", lambda f: f"{b64(f.header(alg=None))}.{b64(f.claims)}."),
    attack("HS256 with the public key", "spelling algorithm", lambda f: f.signed(f.header(alg="HS256"), f.public)),
    attack("HS256 with the PEM", "spelling algorithm", lambda f: f.signed(f.header(alg="HS256"), _pem(f))),
    attack("HS256 with the JWK", "spelling algorithm", lambda f: f.signed(f.header(alg="HS256"), _jwk(f))),
    attack("alg as a list", "algorithm", lambda f: f.signed(f.header(alg=["EdDSA", "none"]))),
    attack("RFC 9864 name", "algorithm", lambda f: f.signed(f.header(alg="Ed25519"))),
    attack("embedded jwk", "headers", lambda f: f.signed(f.header(jwk=f.own_jwk), f.own)),
    attack("embedded jwk, no kid", "headers kid", lambda f: f.signed(f.header(kid=None, jwk=f.own_jwk), f.own)),
    *(
        attack(name, "headers", lambda f, name=name: f.signed(f.header(**{name: "https://evil.test/keys"}), f.own))
        for name in ("jku", "x5u")
    ),
    attack("x5c", "headers", lambda f: f.signed(f.header(x5c=[b64(f.own.public_key().public_bytes_raw())]), f.own)),
    attack(
        "kid is a path",
        "spelling algorithm kid",
        lambda f: f.signed(f.header(alg="HS256", kid="../../../../dev/null"), b"\0"),
    ),
    attack(
        "kid is SQL",
        "spelling algorithm kid",
        lambda f: f.signed(f.header(alg="HS256", kid=SQL_KID), b"the attackers own secret"),
    ),
    attack("kid unknown", "kid", lambda f: f.signed(f.header(kid="elsewhere"))),
    attack("kid missing", "kid", lambda f: f.signed(f.header(kid=None))),
    attack("kid is no string", "kid", lambda f: f.signed(f.header(kid=7))),
    attack("crit unknown", "headers", lambda f: f.signed(f.header(crit=["x-bank"], **{"x-bank": True}))),
    attack("crit empty", "headers", lambda f: f.signed(f.header(crit=[]))),
    attack(
        "b64 false",
        "spelling headers",
        lambda f: f.signed(
            f.header(b64=False, crit=["b64"]), payload=json.dumps(dict(f.claims)).replace(".", "\\u002e")
        ),
    ),
    attack("compressed", "headers", lambda f: f.signed(f.header(zip="DEF"))),
    attack("typ of another kind", "typ", lambda f: f.signed(f.header(typ="at+logout"))),
    attack("another's signature", "signature", lambda f: f.signed(None, f.own)),
    attack("truncated signature", "spelling signature", lambda f: f.genuine[:-4]),
    attack("no signature", "spelling signature", lambda f: f.genuine.rpartition(".")[0] + "."),
    attack("claims exchanged", "signature", lambda f: _exchanged(f)),
    attack("expired", "exp", lambda f: f.signed(exp=_now(-31))),
    attack("expired long ago", "exp", lambda f: f.signed(exp=0)),
    attack("exp absent", "exp", lambda f: f.signed(exp=None)),
    attack("exp a string", "exp", lambda f: f.signed(exp="32503680000")),
    attack("exp true", "exp", lambda f: f.signed(exp=True)),
    attack("exp a fraction", "exp", lambda f: f.signed(exp=_now(300) + 0.5)),
    attack("exp infinite", "exp", lambda f: f.signed(exp=float("inf"))),
    attack("exp not a number", "exp", lambda f: f.signed(exp=float("nan"))),
    attack("exp a list", "exp", lambda f: f.signed(exp=[_now(300)])),
    attack("not yet valid", "nbf", lambda f: f.signed(nbf=_now(120))),
    attack("nbf absent", "nbf", lambda f: f.signed(nbf=None)),
    attack("nbf a string", "nbf", lambda f: f.signed(nbf="0")),
    attack("issued in the future", "iat", lambda f: f.signed(iat=_now(120))),
    attack("iat absent", "iat", lambda f: f.signed(iat=None)),
    attack("iat a string", "iat", lambda f: f.signed(iat="0")),
    attack("wrong audience", "aud", lambda f: f.signed(aud="another")),
    attack("audience among others", "aud", lambda f: f.signed(aud=["another", "lepton"])),
    attack("audience absent", "aud", lambda f: f.signed(aud=None)),
    attack("audience empty", "aud", lambda f: f.signed(aud="")),
    attack("audience a prefix", "aud", lambda f: f.signed(aud="lepton.evil.test")),
    attack("wrong issuer", "iss", lambda f: f.signed(iss="https://evil.test")),
    attack("issuer absent", "iss", lambda f: f.signed(iss=None)),
    attack("issuer with a slash more", "iss", lambda f: f.signed(iss=f"{f.claims['iss']}/")),
    attack("issuer a list", "iss", lambda f: f.signed(iss=[f.claims["iss"]])),
    attack("subject absent", "sub", lambda f: f.signed(sub=None)),
    attack("subject empty", "sub", lambda f: f.signed(sub="")),
    attack("subject a list", "sub", lambda f: f.signed(sub=["users/admin"])),
    attack("subject a peer", "sub", lambda f: f.signed(sub="spiffe://lepton.local/service/auth")),
    attack("jti absent", "jti", lambda f: f.signed(jti=None)),
    attack("jti a number", "jti", lambda f: f.signed(jti=1)),
    attack("session a list", "types", lambda f: f.signed(sid=["x"])),
    attack("projects a string", "types", lambda f: f.signed(projects="*")),
    attack("permissions a string", "types", lambda f: f.signed(permissions="*")),
    attack("claims a list", "claims", lambda f: f.signed(payload=b64([dict(f.claims)]))),
    attack("padded", "spelling", lambda f: f.genuine + "=="),
    attack("padded claims", "spelling", lambda f: f.signed(payload=b64(f.claims) + "=")),
    attack("spelled otherwise", "spelling", lambda f: _respelled(f.genuine)),
    attack("with a blank", "spelling", lambda f: f.genuine[:-10] + " " + f.genuine[-10:]),
    attack("a fourth part", "spelling", lambda f: f.genuine + ".e30"),
    attack("encrypted shape", "spelling", lambda f: f.genuine + ".e30.e30"),
    attack("oversize", "size", lambda f: f.signed(padding="x" * 4096)),
    attack("twice", "spelling", lambda f: f"{f.genuine}.{f.genuine}"),
)

# What is no token at all; it must not be told apart from one, nor break anything.
GARBAGE: tuple[str, ...] = (
    "x", "a.b.c", "..", ".", "null", "Bearer", "x" * 4000, "." * 4000,
    f"{b64('[' * 2500)}.e30.{'A' * 86}",  # as deep as Python's parser goes, and deeper
    f"{b64('{' * 800)}.e30.{'A' * 86}", f"{b64('7')}.e30.{'A' * 86}", f"{b64('null')}.e30.{'A' * 86}",
    f"{b64(bytes([0xFF, 0xFE]))}.e30.{'A' * 86}", f"{b64('1' * 3000)}.e30.{'A' * 86}", "lpk_x", "lpr_admin.a.1.b",
)  # fmt: skip


def _exchanged(forge: Forge) -> str:
    header, _, signature = forge.genuine.split(".")
    return f"{header}.{b64({**forge.claims, 'sub': 'users/root'})}.{signature}"


class Careless:
    """Verifies as the real one does, but for the checks that it goes without: the negative control of each attack."""

    def __init__(self, forge: Forge, without: frozenset[str] = frozenset()) -> None:
        self._forge = forge
        self._without = without

    def accepts(self, token: str) -> bool:
        """Whether it takes the token for good."""
        try:
            self._verify(token)
        except (ValueError, TypeError, KeyError, AttributeError, InvalidSignature):
            return False
        return True

    def _require(self, check: str, holds: bool) -> None:
        if not holds and check not in self._without:
            raise ValueError(check)

    def _verify(self, token: str) -> None:
        self._require("size", len(token) <= 4096)
        shape = r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}"
        parts = token.split(".")[:3]
        self._require("spelling", bool(re.fullmatch(shape, token)) and all(b64(unb64(each)) == each for each in parts))
        header = json.loads(unb64(parts[0]))
        self._require("headers", KNOWN_HEADERS.issuperset(header))
        self._require("typ", header.get("typ") == "JWT")
        self._require("algorithm", header.get("alg") == "EdDSA")
        self._require("kid", header.get("kid") == self._forge.kid)
        self._check_signature(header, parts)
        payload = parts[1].encode() if header.get("b64") is False else unb64(parts[1])
        self._check_claims(json.loads(payload))

    def _check_signature(self, header: dict[str, Any], parts: list[str]) -> None:
        if "signature" in self._without:
            return
        algorithm, body, signature = header.get("alg") or "none", f"{parts[0]}.{parts[1]}".encode(), unb64(parts[2])
        if str(algorithm).lower() == "none":
            return  # what the libraries of 2015 did
        if algorithm == "HS256":
            if not any(
                hmac.compare_digest(hmac.digest(key, body, "sha256"), signature) for key in self._hmac_keys(header)
            ):
                raise ValueError("signature")
            return
        Ed25519PublicKey.from_public_bytes(self._public_key(header)).verify(signature, body)

    def _hmac_keys(self, header: dict[str, Any]) -> list[bytes]:
        kid = str(header.get("kid"))
        if kid.endswith("/dev/null"):
            return [b"\0"]  # a file that the attacker knows
        if "UNION SELECT" in kid:
            return [kid.rpartition("'")[2].encode()]
        return [self._forge.public, _pem(self._forge), _jwk(self._forge)]

    def _public_key(self, header: dict[str, Any]) -> bytes:
        own = self._forge.own.public_key().public_bytes_raw()
        if "jwk" in header:
            return unb64(header["jwk"]["x"])
        return own if {"jku", "x5u", "x5c"}.intersection(header) else self._forge.public

    def _check_claims(self, claims: Any) -> None:
        self._require("claims", isinstance(claims, dict))
        if not isinstance(claims, dict):
            return
        now, whole = time.time(), {name for name in ("exp", "nbf", "iat") if type(claims.get(name)) is int}
        self._require("exp", "exp" in whole and claims["exp"] + LEEWAY_S >= now)
        self._require("nbf", "nbf" in whole and claims["nbf"] - LEEWAY_S <= now)
        self._require("iat", "iat" in whole and claims["iat"] - LEEWAY_S <= now)
        self._require("iss", claims.get("iss") == self._forge.claims["iss"])
        self._require("aud", claims.get("aud") == self._forge.claims["aud"])
        subject = claims.get("sub")
        self._require("sub", isinstance(subject, str) and bool(subject) and not subject.startswith("spiffe://"))
        self._require("jti", isinstance(claims.get("jti"), str) and bool(claims["jti"]))
        lists = all(isinstance(claims.get(name, []), list) for name in ("projects", "permissions"))
        self._require("types", lists and isinstance(claims.get("sid", ""), str))


def thumb(public: bytes) -> str:
    """The RFC 7638 thumbprint, as auth names its keys."""
    return b64(hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{b64(public)}"}}'.encode()).digest())
