"""Reads traces from the collector, which is known by its name in the mesh as the services are."""

import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from lepton.errors import FailedPrecondition, InvalidArgument, Unauthenticated, Unavailable

_TIMEOUT_S: Final = 10.0
_NAME: Final = "collector"


def read_trace(collector: str, trace_id: str, *, token: str, trust_bundle: Path) -> list[dict[str, Any]]:
    """The spans of a trace; none when the collector knows nothing of it, or the caller may not."""
    if not collector.startswith("https://"):
        raise FailedPrecondition("TRACES_NOT_CONFIGURED")  # the token goes to nobody who proves nothing
    if len(trace_id) != 32 or not set(trace_id.lower()) <= set("0123456789abcdef"):
        raise InvalidArgument("INVALID_FIELD", fields={"trace_id": "must be 32 hexadecimal digits"})
    url = f"{collector.rstrip('/')}/api/traces/{trace_id.lower()}"
    asked = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})  # noqa: S310 (https, see above)
    try:
        opener = _opener(ssl.create_default_context(cafile=trust_bundle))
        with opener.open(asked, timeout=_TIMEOUT_S) as answer:
            spans: list[dict[str, Any]] = json.load(answer)["spans"]
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == HTTPStatus.NOT_FOUND:
            return []
        if error.code == HTTPStatus.UNAUTHORIZED:
            raise Unauthenticated("TOKEN_INVALID") from error
        raise Unavailable("COLLECTOR_UNAVAILABLE", collector=collector, problem=str(error)) from error
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable("COLLECTOR_UNAVAILABLE", collector=collector, problem=str(error)) from error
    return spans


def _opener(context: ssl.SSLContext) -> urllib.request.OpenerDirector:
    """To the collector itself: through no proxy, and nowhere else when it says so."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects, _ToCollector(context=context))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """The token is for the collector."""


class _ToCollector(urllib.request.HTTPSHandler):
    _context: ssl.SSLContext

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Connection, req, context=self._context)


class _Connection(http.client.HTTPSConnection):
    _context: ssl.SSLContext

    def connect(self) -> None:
        """The certificate must be the collector's own, whatever the address says."""
        opened = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._context.wrap_socket(opened, server_hostname=_NAME)
        except BaseException:
            opened.close()
            raise
