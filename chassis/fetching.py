"""Fetching of URLs that others named: https, public addresses, this origin only, so many bytes, so many seconds.

A name is resolved once, every address of it is looked at, and the connection goes to the address that was looked at:
a name that resolves to something else a moment later (DNS rebinding) gains nothing. Proxies of the environment are not
used.
"""

import asyncio
import io
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}", re.ASCII)
_PRINTABLE: Final = re.compile(r"[!-\[\]-~]{1,2048}", re.ASCII)  # no blanks, control characters or backslashes
_REDIRECTS: Final = 3
_HEAD_BYTES: Final = 32 << 10
_CHUNK: Final = 64 << 10
_ADDRESSES: Final = 4  # tried in turn
# An IPv6 address may only carry an IPv4 one: NAT64 (RFC 6052, RFC 8215), 6to4, Teredo, IPv4-compatible.
_CARRIERS: Final = tuple(map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")))


class FetchError(Exception):
    """The URL was refused, or could not be fetched; the message says why and holds nothing of the answer."""


class UrlRefused(FetchError):
    """The URL, or what it resolves or redirects to, is not one that may be fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRules:
    """What may be fetched, and how much of it."""

    allow_http: bool = False
    networks: Sequence[Network] = ()
    """Networks that may be reached although they are not public: private, loopback or link-local."""
    max_bytes: int = 1 << 20
    timeout_s: float = 10.0
    """From the resolution of the name to the last byte."""
    ca_file: Path | None = None
    """PEM of the authorities to trust instead of the system's."""


class Fetcher:
    """Fetches by rules."""

    def __init__(self, rules: FetchRules, resolve: Resolve | None = None) -> None:
        self._rules = rules
        self._resolve = resolve or system_addresses
        self._tls: ssl.SSLContext | None = None

    async def get(self, url: str) -> bytes:
        """The body of a 200 answer; FetchError for every other outcome. Redirects are followed within the origin."""
        try:
            async with asyncio.timeout(self._rules.timeout_s):
                for _ in range(_REDIRECTS + 1):
                    answer = await self._once(parts := checked_url(url, allow_http=self._rules.allow_http))
                    if not 300 <= answer.status < 400:
                        return self._body(answer)
                    url = _within_origin(parts, answer.getheader("location", ""))
        except TimeoutError:
            raise FetchError(f"{_shown(url)} did not answer within {self._rules.timeout_s:g} s") from None
        raise FetchError(f"{_shown(url)} redirects more than {_REDIRECTS} times")

    async def addresses(self, parts: SplitResult) -> list[Address]:
        """What the URL's host resolves to; UrlRefused when a single one of them may not be reached."""
        host, port = parts.hostname or "", port_of(parts)
        try:
            found = [ip_address(each.partition("%")[0]) for each in await self._resolve(host, port)]
        except (OSError, ValueError) as error:
            raise FetchError(f"{host} does not resolve: {type(error).__name__}") from None
        if not found:
            raise FetchError(f"{host} does not resolve")
        for address in found:
            if not may_reach(address, self._rules.networks):
                raise UrlRefused(
                    f"{host} resolves to {address}, which is not public; allow its network where that is meant"
                )
        return found

    async def _once(self, parts: SplitResult) -> HTTPResponse:
        reader, writer = await self._connect(parts)
        try:
            writer.write(_request(parts))
            return await self._answer(reader, parts)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, HTTPException, ValueError) as error:
            raise FetchError(f"{_shown(parts.geturl())}: {type(error).__name__}") from None
        finally:
            writer.transport.abort()

    async def _connect(self, parts: SplitResult) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        tls = await self._context() if parts.scheme == "https" else None
        problem: Exception | None = None
        for address in (await self.addresses(parts))[:_ADDRESSES]:
            try:
                return await asyncio.open_connection(
                    str(address),
                    port_of(parts),
                    ssl=tls,
                    server_hostname=parts.hostname if tls is not None else None,
                    limit=_HEAD_BYTES,
                )
            except OSError as error:  # certificates that do not hold are OSErrors too
                problem = error
        detail = getattr(problem, "verify_message", "") or type(problem).__name__
        raise FetchError(f"cannot connect to {parts.hostname}:{port_of(parts)}: {detail}")

    async def _answer(self, reader: asyncio.StreamReader, parts: SplitResult) -> HTTPResponse:
        """The answer, read while it is short enough and then parsed; the server closes behind it, as it was asked."""
        most = self._rules.max_bytes + _HEAD_BYTES
        raw = bytearray()
        while chunk := await reader.read(_CHUNK):
            raw += chunk
            if len(raw) > most:
                raise FetchError(f"{_shown(parts.geturl())} sends more than {self._rules.max_bytes} bytes")
        answer = HTTPResponse(_Received(bytes(raw)))  # type: ignore[arg-type]
        answer.begin()
        return answer

    def _body(self, answer: HTTPResponse) -> bytes:
        if answer.status != HTTPStatus.OK:
            raise FetchError(f"the answer is {answer.status}, not 200")
        if "content-encoding" in answer.headers:
            raise FetchError("the answer is compressed, which was not asked for")
        if answer.length is None and not answer.chunked:
            raise FetchError("the answer does not say how long it is")
        try:
            body = answer.read()
        except (HTTPException, ValueError) as error:
            raise FetchError(f"the answer is broken off: {type(error).__name__}") from None
        if len(body) > self._rules.max_bytes:
            raise FetchError(f"the answer has more than {self._rules.max_bytes} bytes")
        return body

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            ca_file = str(self._rules.ca_file) if self._rules.ca_file is not None else None
            try:
                self._tls = await asyncio.to_thread(ssl.create_default_context, cafile=ca_file)  # reads files
            except OSError as error:
                raise FetchError(f"cannot read {ca_file}: {error}") from None
        return self._tls


def checked_url(url: str, *, allow_http: bool = False) -> SplitResult:
    """The parts of a URL that may be fetched as far as its text goes; UrlRefused otherwise."""
    if not _PRINTABLE.fullmatch(url):
        raise UrlRefused("a URL has at most 2048 printable ASCII characters, and no backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UrlRefused(f"not a URL: {error}") from None
    if parts.scheme not in (("https", "http") if allow_http else ("https",)):
        raise UrlRefused(f"the scheme is {parts.scheme[:16]!r}; only https is fetched")
    if "@" in parts.netloc or parts.fragment or port == 0:
        raise UrlRefused("a URL to fetch has no user, no password and no fragment")
    if not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise UrlRefused("the URL names no host")
    return parts


def may_reach(address: Address, networks: Sequence[Network] = ()) -> bool:
    """Whether an address is public or in one of the networks; an IPv4 address within an IPv6 one counts as itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return may_reach(address.ipv4_mapped, networks)
        is_carrier = any(address in each for each in _CARRIERS)
    else:
        is_carrier = False
    if any(address.version == each.version and address in each for each in networks):
        return True
    return address.is_global and not address.is_multicast and not is_carrier


def port_of(parts: SplitResult) -> int:
    """The port that the URL names or means."""
    return parts.port or _PORTS[parts.scheme]


async def system_addresses(host: str, port: int) -> Sequence[str]:
    """What the machine resolves a host to, without repetitions."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _within_origin(parts: SplitResult, location: str) -> str:
    if not location:
        raise FetchError("the answer redirects nowhere")
    target = urljoin(parts.geturl(), location)
    try:
        other = urlsplit(target)
        is_same = (other.scheme, other.hostname, other.port or _PORTS.get(other.scheme)) == (
            parts.scheme,
            parts.hostname,
            port_of(parts),
        )
    except ValueError:
        is_same = False
    if not is_same:
        raise UrlRefused(f"{parts.hostname} redirects elsewhere; name the right URL instead")
    return target


def _request(parts: SplitResult) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        "User-Agent: lepton",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _shown(url: str) -> str:
    return url.partition("?")[0][:200]


class _Received:
    """What came over a connection, in the form that http.client parses."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        """The bytes, from the first."""
        return io.BytesIO(self._raw)
