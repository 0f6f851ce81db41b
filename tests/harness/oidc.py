"""The OpenID provider of the tests: its process, and tokens that no decent provider would sign."""

import asyncio
import base64
import json
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from services.auth.oidc.settings import OidcProvider
from tests.harness.oidc_provider import CLIENT
from tests.harness.pki import Authority
from tests.harness.wait import until

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = ("127.0.0.0/8", "::1/128")
Key = RSAKey | ECKey | OKPKey


@dataclass
class RunningProvider:
    """A provider that serves."""

    issuer: str
    ca_file: Path

    def settings(self, **changes: Any) -> OidcProvider:
        """What auth is told of it."""
        given: dict[str, Any] = {"client_id": CLIENT, "networks": LOOPBACK, "ca_file": str(self.ca_file), **changes}
        return OidcProvider(issuer=self.issuer, **given)

    async def post(self, path: str, document: Any = None) -> str:
        """Tell the provider something."""
        return await asyncio.to_thread(self._send, path, json.dumps(document if document is not None else {}).encode())

    async def get(self, path: str) -> str:
        """Ask it."""
        return await asyncio.to_thread(self._send, path, None)

    async def mint(self, **claims: Any) -> str:
        """An ID token with these claims."""
        return await self.post("/mint", claims)

    def browse(self, url: str, login: str) -> str:
        """What a browser does: sign in at the provider, follow the redirect to the command line; the page shown."""
        answer = self._open(f"{url}&login={login}", follow=False)
        target = answer.headers["location"]
        assert urlsplit(target).hostname == "127.0.0.1"
        try:
            with urllib.request.urlopen(target, timeout=10) as page:
                return str(page.read().decode())
        except urllib.error.HTTPError as error:
            return str(error.read().decode())

    def _send(self, path: str, body: bytes | None) -> str:
        return self._open(self.issuer + path, body).read().decode()

    def _open(self, url: str, body: bytes | None = None, *, follow: bool = True) -> HTTPResponse:
        request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
        context = ssl.create_default_context(cafile=str(self.ca_file))
        handlers: list[Any] = [urllib.request.HTTPSHandler(context=context)]
        if not follow:
            handlers.append(_Stop)
        answer: HTTPResponse = urllib.request.build_opener(*handlers).open(request, timeout=10)
        return answer


class _Stop(urllib.request.HTTPRedirectHandler):
    def http_error_302(self, req: Any, fp: Any, *_: Any) -> Any:
        return fp


@asynccontextmanager
async def running_provider(folder: Path) -> AsyncIterator[RunningProvider]:
    """A provider in a process of its own, over TLS, with a certificate for `localhost`."""
    with _prepared(folder).open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.harness.oidc_provider", "--folder", str(folder),
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        await until((folder / "port").exists, 30)
        yield RunningProvider(issuer=f"https://localhost:{(folder / 'port').read_text()}", ca_file=folder / "ca.pem")
    finally:
        process.kill()
        await process.wait()


def _prepared(folder: Path) -> Path:
    """The provider's certificate; where it logs."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority("provider authority")
    credentials = authority.issue("service/provider")
    (folder / "cert.pem").write_bytes(credentials.chain_pem)
    (folder / "key.pem").write_bytes(credentials.key_pem)
    (folder / "ca.pem").write_bytes(authority.bundle_pem)
    return folder / "log"


class Minter:
    """Signs whatever it is told to, with keys that a file publishes: a provider that does everything wrong."""

    def __init__(self, folder: Path, issuer: str = "https://login.test") -> None:
        self.issuer = issuer
        self.key: Key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
        self.jwks_file = folder / f"jwks-{issuer.rpartition('/')[2]}.json"
        self.publish(self.key)

    def publish(self, *keys: Key) -> None:
        """What verifies its tokens."""
        self.jwks_file.write_text(json.dumps({"keys": [key.as_dict(private=False) for key in keys]}))

    def settings(self, **changes: Any) -> OidcProvider:
        """What auth is told of it: nothing is fetched."""
        given: dict[str, Any] = {"client_id": CLIENT, "jwks_file": str(self.jwks_file), **changes}
        return OidcProvider(issuer=self.issuer, **given)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims that hold, with changes; None leaves a claim out."""
        now = int(time.time())
        full = {"iss": self.issuer, "aud": CLIENT, "sub": "alice-1", "iat": now, "exp": now + 600, **changes}
        return {name: value for name, value in full.items() if value is not None}

    def token(self, *, key: Key | None = None, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token that is signed as it should be."""
        return self.signed(self.claims(**claims), key=key, header=header)

    def signed(self, claims: dict[str, Any], *, key: Key | None = None, header: Mapping[str, Any] | None = None) -> str:
        """These claims, signed."""
        key = key or self.key
        full = {"alg": "RS256", "kid": key.kid, **(header or {})}
        chosen = {name: value for name, value in full.items() if value is not None}
        signed = f"{_encoded(chosen)}.{_encoded(claims)}"
        signature = JWSRegistry.algorithms[str(full["alg"])].sign(signed.encode(), key)
        return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _encoded(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()
