"""What a client posts to a provider: forms over https, answers of JSON, no redirects."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from lepton.errors import Unauthenticated, Unavailable

_TIMEOUT_S: Final = 15.0
_MOST_BYTES: Final = 256 << 10
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a provider answered: a document, or the error that it holds (RFC 6749, 5.2)."""

    document: Mapping[str, Any]
    error: str = ""

    def text(self, name: str) -> str:
        """A field of the document that is text; PROVIDER_REFUSED when there is none."""
        value = self.document.get(name)
        if not isinstance(value, str) or not value:
            raise refused(self.error or f"its answer has no {name}")
        return value


def post(url: str, form: Mapping[str, str]) -> Answer:
    """Send a form. Raises Unavailable (PROVIDER_UNAVAILABLE) when no answer comes, Unauthenticated (PROVIDER_REFUSED)
    when it is none of a provider."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise refused("its endpoint is not https")
    request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
        url,
        data=urlencode({name: value for name, value in form.items() if value}).encode(),
        headers={"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"},
    )
    opener = urllib.request.build_opener(
        _NoRedirects, urllib.request.HTTPSHandler(context=ssl.create_default_context())
    )
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return Answer(document=_document(answer.read(_MOST_BYTES)))
    except urllib.error.HTTPError as error:
        if not 400 <= error.code < 500:
            raise Unavailable("PROVIDER_UNAVAILABLE", issuer=parts.netloc) from error
        document = _document(error.read(_MOST_BYTES))
        return Answer(document=document, error=str(document.get("error", f"HTTP {error.code}"))[:100])
    except OSError as error:
        raise Unavailable("PROVIDER_UNAVAILABLE", issuer=parts.netloc) from error


def refused(why: str) -> Unauthenticated:
    """The provider gives no token."""
    return Unauthenticated("PROVIDER_REFUSED", error="".join(filter(str.isprintable, why))[:200])


def _document(content: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise refused("its answer is no JSON object")
    return document


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A code or a secret goes to the endpoint that auth named, and nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""
        return
