"""Fetching what others name: the server may be anybody, and what it sends anything."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from chassis import fetching
from chassis.fetching import Fetcher, FetchError, FetchRules, UrlRefused, checked_url, may_reach
from tests.harness.pki import Authority

LOOPBACK = (ip_network("127.0.0.0/8"),)
OPEN = FetchRules(allow_http=True, networks=LOOPBACK, timeout_s=5.0)
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers so; its port, and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            await answer(asked[-1], writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if writer.is_closing() else writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


def says(head: str, body: bytes = b"") -> Answer:
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\n\r\n".encode() + body)
        await writer.drain()

    return answer


def ok(body: bytes) -> Answer:
    return says(f"200 OK\r\nContent-Length: {len(body)}", body)


def resolving(**hosts: Sequence[str]) -> fetching.Resolve:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return hosts[host.partition(".")[0]]

    return resolve


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "//example.com/",
        "https:///path", "https://", "https://user@example.com/", "https://user:secret@example.com/",
        "https://example.com/#part", "https://example.com:0/", "https://example.com:99999/", "https://exa mple.com/",
        "https://example.com/\r\nHost: other", "https://example.com\\@other.com/", "https://ex\u0430mple.com/",
        "https://[::1", "https://" + "a" * 3000,
    ],
)  # fmt: skip
def test_only_plain_https_urls_are_fetched(url: str) -> None:
    with pytest.raises(UrlRefused):
        checked_url(url)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "198.18.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:7f00:1::", "::7f00:1",
        "2001:db8::1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_not_reached(address: str) -> None:
    assert not may_reach(ip_address(address))


def test_what_is_public_or_allowed_is_reached() -> None:
    assert may_reach(ip_address("8.8.8.8"))
    assert may_reach(ip_address("2606:4700::1111"))
    assert may_reach(ip_address("10.1.2.3"), [ip_network("10.1.0.0/16")])
    assert may_reach(ip_address("::ffff:10.1.2.3"), [ip_network("10.1.0.0/16")])
    assert not may_reach(ip_address("10.2.2.3"), [ip_network("10.1.0.0/16")])
    assert not may_reach(ip_address("64:ff9b::a01:203"), [ip_network("10.1.0.0/16")])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::1]", "0"])
async def test_no_spelling_of_loopback_gets_there(host: str) -> None:
    async with serving(ok(b"secret")) as (port, asked):
        with pytest.raises(FetchError):
            await Fetcher(FetchRules(allow_http=True)).get(f"http://{host}:{port}/")
        assert asked == []
        # The control: allowed, it does.
        assert await Fetcher(OPEN).get(f"http://127.0.0.1:{port}/") == b"secret"


async def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    async with serving(ok(b"secret")) as (port, asked):
        fetcher = Fetcher(FetchRules(allow_http=True), resolving(mixed=["8.8.8.8", "127.0.0.1"]))
        with pytest.raises(UrlRefused, match="127.0.0.1"):
            await fetcher.get(f"http://mixed.test:{port}/")
        assert asked == []


async def test_a_name_that_changes_its_mind_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: what was looked at is what is connected to, and nobody is asked a second time."""
    answers = iter([["8.8.8.8"], ["127.0.0.1"]])
    connected: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        return next(answers)

    async def connect(host: str, port: int, **_: object) -> None:
        connected.append(host)
        raise OSError

    monkeypatch.setattr(asyncio, "open_connection", connect)
    with pytest.raises(FetchError):
        await Fetcher(FetchRules(), resolve).get("https://rebinding.test/")
    assert connected == ["8.8.8.8"]


async def test_without_the_look_at_addresses_loopback_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "may_reach", lambda *_: True)
    async with serving(ok(b"secret")) as (port, _):
        assert await Fetcher(FetchRules(allow_http=True)).get(f"http://127.0.0.1:{port}/") == b"secret"


async def test_redirects_stay_within_the_origin() -> None:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        here = head.startswith(b"GET /here ")
        await (ok(b"there") if here else says("302 Found\r\nLocation: /here\r\nContent-Length: 0"))(head, writer)

    async with serving(answer) as (port, asked):
        assert await Fetcher(OPEN).get(f"http://127.0.0.1:{port}/start") == b"there"
        assert len(asked) == 2


@pytest.mark.parametrize(
    "scheme_and_host", ["http://localhost", "https://127.0.0.1", "file:///etc/passwd#", "//other.test"]
)
async def test_redirects_elsewhere_are_refused(scheme_and_host: str) -> None:
    async with serving(ok(b"secret")) as (inner, inner_asked):
        location = f"{scheme_and_host}:{inner}/"
        async with serving(says(f"302 Found\r\nLocation: {location}\r\nContent-Length: 0")) as (port, _):
            with pytest.raises(UrlRefused):
                await Fetcher(OPEN).get(f"http://127.0.0.1:{port}/")
        assert inner_asked == []


async def test_a_circle_of_redirects_ends() -> None:
    async with serving(says("302 Found\r\nLocation: /\r\nContent-Length: 0")) as (port, asked):
        with pytest.raises(FetchError, match="more than 3 times"):
            await Fetcher(OPEN).get(f"http://127.0.0.1:{port}/")
        assert len(asked) == 4


async def test_an_endless_answer_is_cut_off() -> None:
    sent = 0

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()
            sent += 0x10000

    async with serving(answer) as (port, _):
        with pytest.raises(FetchError, match="more than 100000 bytes"):
            await Fetcher(FetchRules(allow_http=True, networks=LOOPBACK, max_bytes=100_000)).get(
                f"http://127.0.0.1:{port}/"
            )
    assert sent < 32 << 20  # what the buffers of both kernels take beside


async def test_endless_headers_are_cut_off() -> None:
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    async with serving(answer) as (port, _):
        with pytest.raises(FetchError):
            await Fetcher(OPEN).get(f"http://127.0.0.1:{port}/")


async def test_a_server_that_drips_is_given_up() -> None:
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"H")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(answer) as (port, _):
        with pytest.raises(FetchError, match="within 0.3 s"):
            await Fetcher(FetchRules(allow_http=True, networks=LOOPBACK, timeout_s=0.3)).get(
                f"http://127.0.0.1:{port}/"
            )


@pytest.mark.parametrize(
    "answer",
    [
        says("404 Not Found\r\nContent-Length: 0"),
        says("204 No Content"),
        says("200 OK\r\nContent-Length: 100", b"short"),
        says("200 OK", b"of no length"),
        says("200 OK\r\nTransfer-Encoding: chunked", b"5\r\nhello"),
        says("200 OK\r\nTransfer-Encoding: chunked", b"zz\r\nhello"),
        says("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5", b"hello"),
        says("302 Found\r\nContent-Length: 0"),
        says("garbage"),
    ],
)
async def test_what_is_not_a_whole_answer_is_refused(answer: Answer) -> None:
    async with serving(answer) as (port, _):
        with pytest.raises(FetchError):
            await Fetcher(OPEN).get(f"http://127.0.0.1:{port}/")


async def test_chunks_are_put_together() -> None:
    chunked = says("200 OK\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n6\r\n there\r\n0\r\n\r\n")
    async with serving(chunked) as (port, asked):
        assert await Fetcher(OPEN).get(f"http://127.0.0.1:{port}/a?b=c") == b"hello there"
    assert asked[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")


async def test_the_certificate_is_checked_against_the_name_not_the_address(tmp_path: Path) -> None:
    authority, other = Authority("one"), Authority("other")
    credentials = authority.issue("service/login", hosts=["login.test"])
    (tmp_path / "cert.pem").write_bytes(credentials.chain_pem)
    (tmp_path / "key.pem").write_bytes(credentials.key_pem)
    (tmp_path / "ca.pem").write_bytes(authority.bundle_pem)
    (tmp_path / "other.pem").write_bytes(other.bundle_pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    here = resolving(login=["127.0.0.1"], another=["127.0.0.1"])

    def fetcher(ca: str | None) -> Fetcher:
        return Fetcher(FetchRules(networks=LOOPBACK, ca_file=tmp_path / ca if ca else None), here)

    async with serving(ok(b"keys"), tls) as (port, _):
        assert await fetcher("ca.pem").get(f"https://login.test:{port}/") == b"keys"
        for ca, host in (("ca.pem", "another.test"), ("other.pem", "login.test"), (None, "login.test")):
            with pytest.raises(FetchError, match="cannot connect"):
                await fetcher(ca).get(f"https://{host}:{port}/")


async def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(ok(b"direct")) as (port, _):
        assert await Fetcher(OPEN).get(f"http://127.0.0.1:{port}/") == b"direct"


# Who asks by HTTP without a Fetcher, and why that is no way in.
OTHERS = {
    "services/inference/envoy/admin.py": "the admin port of the Envoy that this process started, on loopback",
    "sdk/lepton/client/traces.py": "the user's own collector, as their profile names it",
    "sdk/lepton/otlp.py": "the trace collector, as the configuration names it",
    "sdk/lepton/oidc/token_endpoint.py": "the user's own provider, as auth names it; https, and no redirects",
}
CLIENTS = re.compile(r"^\s*(?:import|from) (?:urllib\.request|requests|httpx|aiohttp|urllib3)\b", re.MULTILINE)


def test_nothing_else_fetches_urls() -> None:
    root = Path(__file__).resolve().parents[2]
    files = (each for folder in ("sdk/lepton", "chassis", "services") for each in (root / folder).rglob("*.py"))
    found = {str(each.relative_to(root)) for each in files if CLIENTS.search(each.read_text())}
    assert found == set(OTHERS)
