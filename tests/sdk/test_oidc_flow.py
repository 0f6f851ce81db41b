"""The client's half of signing in at a provider: what it sends where, and whose redirects it believes."""

import asyncio
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlsplit

import pytest

from lepton.auth.v1.federation_service_pb2 import IdentityProvider
from lepton.errors import InvalidArgument, LeptonError, NotFound, Unauthenticated, Unavailable
from lepton.oidc.authorization import Authorization, ForeignRedirect, challenge
from lepton.oidc.device import begin, wait
from lepton.oidc.loopback import Loopback, loopback
from lepton.oidc.sign_in import choose
from lepton.oidc.token_endpoint import post

pytestmark = pytest.mark.integration

PROVIDER = IdentityProvider(
    provider="corp",
    issuer="https://login.test",
    client_id="lepton",
    scopes=["openid", "email"],
    authorization_endpoint="https://login.test/authorize?tenant=1",
    token_endpoint="https://login.test/token",
)


def asked(flow: Authorization) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(flow.url).query))


def test_what_the_person_is_sent_to() -> None:
    flow = Authorization.begin(PROVIDER, "http://127.0.0.1:1/callback")
    sent = asked(flow)
    assert sent["tenant"] == "1"
    assert sent["scope"] == "openid email"
    assert sent["code_challenge_method"] == "S256"
    assert sent["code_challenge"] == challenge(flow.verifier)
    assert flow.verifier not in flow.url
    for name in ("state", "nonce", "verifier"):
        assert len(getattr(flow, name)) == 43  # 256 bits
        assert getattr(flow, name) not in repr(flow)
    again = Authorization.begin(PROVIDER, "http://127.0.0.1:1/callback")
    assert {flow.state, flow.nonce, flow.verifier}.isdisjoint({again.state, again.nonce, again.verifier})


def test_the_challenge_is_that_of_the_rfc() -> None:
    """RFC 7636, appendix B."""
    assert challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_only_the_redirect_of_this_flow_is_believed() -> None:
    flow = Authorization.begin(PROVIDER, "http://127.0.0.1:1/callback")
    assert flow.code({"state": flow.state, "code": "c"}) == "c"
    assert flow.code({"state": flow.state, "code": "c", "iss": PROVIDER.issuer}) == "c"
    for foreign in ({}, {"code": "c"}, {"state": "", "code": "c"}, {"state": "other", "code": "c"}):
        with pytest.raises(ForeignRedirect):
            flow.code(foreign)
    for told in ({"iss": "https://attacker.test", "code": "c"}, {"error": "access_denied"}, {}, {"code": ""}):
        with pytest.raises(Unauthenticated) as caught:
            flow.code({"state": flow.state, **told})
        assert caught.value.reason == "PROVIDER_REFUSED"


async def request(page: Loopback, target: str, host: str = "", method: str = "GET") -> str:
    port = urlsplit(page.redirect_uri).port
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host or f'127.0.0.1:{port}'}\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return answer


async def test_strangers_at_the_loopback_neither_learn_nor_end_anything() -> None:
    async with loopback() as page:
        assert "404" in await request(page, "/callback?state=x")  # before a flow has begun
        flow = Authorization.begin(PROVIDER, page.redirect_uri)
        page.expect(flow)
        good = f"/callback?state={flow.state}&code=c"
        strangers = [
            await request(page, "/"),
            await request(page, "/callback?state=wrong&code=stolen"),
            await request(page, good, host="attacker.test"),
            await request(page, good, method="POST"),
            await request(page, f"{good}&code=another&state={flow.state}"),
            await request(page, "/callback?state=<script>alert(1)</script>"),
        ]
        assert all(" 404 " in each or " 400 " in each for each in strangers)
        assert not any("script>alert" in each or flow.state in each for each in strangers)
        assert not page._code.done()
        shown = await request(page, good)
        assert "You are signed in" in shown
        assert "no-store" in shown
        assert "default-src 'none'" in shown
        assert await page.code() == "c"


async def test_the_loopback_listens_on_loopback_only() -> None:
    async with loopback() as page:
        assert page.redirect_uri.startswith("http://127.0.0.1:")
    with pytest.raises(OSError):  # noqa: PT011 - whichever the system says
        await request(page, "/")


@contextmanager
def endpoint(*answers: tuple[int, str, dict[str, str]]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A token endpoint on loopback that gives these answers in turn; its URL and the forms that came."""
    forms: list[dict[str, str]] = []
    left = iter(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            forms.append(dict(parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode())))
            status, body, headers = next(left)
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", forms
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_code_is_exchanged_with_the_verifier() -> None:
    with endpoint((200, '{"id_token": "t", "access_token": "a"}', {})) as (url, forms):
        provider = IdentityProvider(client_id="lepton", token_endpoint=url)
        flow = Authorization.begin(provider, "http://127.0.0.1:1/callback")
        assert flow.exchange("c") == "t"
    assert forms == [
        {
            "grant_type": "authorization_code",
            "code": "c",
            "redirect_uri": "http://127.0.0.1:1/callback",
            "client_id": "lepton",
            "code_verifier": flow.verifier,
        }
    ]


def test_a_code_is_sent_nowhere_else() -> None:
    with endpoint((200, '{"id_token": "t"}', {})) as (elsewhere, stolen):
        with endpoint((307, "{}", {"location": elsewhere}), (302, "{}", {"location": elsewhere})) as (url, _):
            for _ in range(2):
                with pytest.raises(LeptonError):
                    post(url, {"code": "c"})
        assert stolen == []
    for url in ("http://login.test/token", "file:///etc/passwd", "ftp://127.0.0.1/x"):
        with pytest.raises(Unauthenticated):
            post(url, {"code": "c"})


def test_answers_that_are_none_are_told_apart() -> None:
    answers = (
        (200, "no json", {}), (200, "[]", {}), (400, "<html>", {}), (500, "{}", {}), (200, '{"id_token": 7}', {}),
        (400, '{"error": "invalid_grant\\u001b[31m"}', {}),
    )  # fmt: skip
    with endpoint(*answers) as (url, _):
        for expected in (Unauthenticated, Unauthenticated, Unauthenticated, Unavailable):
            with pytest.raises(expected):
                post(url, {})
        with pytest.raises(Unauthenticated):
            post(url, {}).text("id_token")
        flow = Authorization.begin(IdentityProvider(token_endpoint=url), "")
        with pytest.raises(Unauthenticated) as caught:
            flow.exchange("c")
        assert caught.value.metadata["error"] == "invalid_grant[31m"  # nothing that a terminal would obey
    with pytest.raises(Unavailable):
        post("http://127.0.0.1:1/", {})


async def test_a_device_waits_as_it_is_told_and_gives_up() -> None:
    code = '{"device_code": "d", "user_code": "U", "verification_uri": "https://login.test", "expires_in": 20}'
    pending, slow = '{"error": "authorization_pending"}', '{"error": "slow_down"}'
    waits: list[float] = []

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    with endpoint((200, code, {}), (400, pending, {}), (400, slow, {}), (400, pending, {})) as (url, forms):
        provider = IdentityProvider(client_id="lepton", token_endpoint=url, device_authorization_endpoint=url)
        begun = await begin(provider)
        assert "d" not in repr(begun).replace("DeviceCode", "").replace("user_code", "")[-2:]
        with pytest.raises(Unauthenticated) as caught:
            await wait(provider, begun, sleep)
    assert caught.value.metadata["error"] == "expired_token"
    assert waits == [5.0, 5.0, 10.0]
    assert forms[1]["grant_type"] == "urn:ietf:params:oauth:grant-type:device_code"


async def test_a_provider_without_a_device_flow_is_told() -> None:
    with pytest.raises(Unauthenticated):
        await begin(PROVIDER)


def test_a_provider_is_chosen() -> None:
    other = IdentityProvider(provider="other", token_endpoint="https://other.test/token")
    assert choose([PROVIDER], "") is PROVIDER
    assert choose([PROVIDER, other], "other") is other
    with pytest.raises(InvalidArgument):
        choose([PROVIDER, other], "")
    for none, name in (([], ""), ([PROVIDER], "absent")):
        with pytest.raises(NotFound):
            choose(none, name)
    with pytest.raises(Unavailable):
        choose([IdentityProvider(provider="away")], "")
