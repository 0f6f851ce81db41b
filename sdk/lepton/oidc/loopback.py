"""Where the browser comes back to: one page on 127.0.0.1, until the right redirect has come."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import parse_qs, urlsplit

from lepton.errors import LeptonError
from lepton.oidc.authorization import Authorization, ForeignRedirect

PATH: Final = "/callback"
_LINE_BYTES: Final = 16 << 10
_REQUEST_S: Final = 5.0
_DONE: Final = "You are signed in, and may close this page."
_REFUSED: Final = "Signing in failed; the command line says why. You may close this page."
_ELSEWHERE: Final = "There is nothing here."


class Loopback:
    """Waits for the redirect of one flow. What else calls, a page of another site perhaps, learns nothing."""

    def __init__(self, port: int) -> None:
        self.redirect_uri = f"http://127.0.0.1:{port}{PATH}"
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self._flow: Authorization | None = None
        self._code: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def expect(self, flow: Authorization) -> None:
        """Take the redirect of this flow, from now on."""
        self._flow = flow

    async def code(self) -> str:
        """The code of the flow's redirect. Raises Unauthenticated (PROVIDER_REFUSED)."""
        return await self._code

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            async with asyncio.timeout(_REQUEST_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status, text = self._answer(head)
                writer.write(_page(status, text))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    def _answer(self, head: str) -> tuple[str, str]:
        line, *headers = head.split("\r\n")
        method, _, rest = line.partition(" ")
        target = urlsplit(rest.partition(" ")[0])
        named = dict(map(_header, filter(None, headers)))
        # Another name that was made to lead here (DNS rebinding) is not what the provider redirects to.
        if method != "GET" or target.path != PATH or named.get("host") not in self._hosts or self._flow is None:
            return "404 Not Found", _ELSEWHERE
        try:
            code = self._flow.code(_single(target.query))
        except ForeignRedirect:
            return "400 Bad Request", _ELSEWHERE
        except LeptonError as error:
            if not self._code.done():
                self._code.set_exception(error)
            return "400 Bad Request", _REFUSED
        if not self._code.done():
            self._code.set_result(code)
        return "200 OK", _DONE


@asynccontextmanager
async def loopback(port: int = 0) -> AsyncIterator[Loopback]:
    """Listen on a port of 127.0.0.1; 0 takes any, which RFC 8252 (7.3) has providers allow."""
    ready: asyncio.Future[Loopback] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (await ready).serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=_LINE_BYTES)
    async with server:
        ready.set_result(Loopback(server.sockets[0].getsockname()[1]))
        yield await ready


def _single(query: str) -> Mapping[str, str]:
    """The parameters that come once: one that is repeated is nobody's (RFC 6749, 3.1)."""
    return {name: values[0] for name, values in parse_qs(query, max_num_fields=50).items() if len(values) == 1}


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _page(status: str, text: str) -> bytes:
    body = f"<!doctype html><meta charset=utf-8><title>Lepton</title><p>{text}</p>\n".encode()
    head = (
        f"HTTP/1.1 {status}",
        "Content-Type: text/html; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Referrer-Policy: no-referrer",
        "Content-Security-Policy: default-src 'none'",
        "Connection: close",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
