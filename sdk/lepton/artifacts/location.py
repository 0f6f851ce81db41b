"""The URL of an artifact store: where it is, how it is reached, and with which keys; never a secret."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from lepton.errors import InvalidArgument

_S3: Final = ("s3", "s3a")
_OPTIONS: Final = ("endpoint_url", "region")
PROJECT_KEYS: Final = "keys=project"
"""As a URL's fragment: each project's artifacts are sealed with its own keys, which auth keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A store's URL, taken apart: `s3://bucket/folder?endpoint_url=..&region=..#key_file=/etc/lepton/artifacts.key`."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)
    key_file: Path | None = None
    has_project_keys: bool = False  # every project's artifacts are sealed with keys of its own, which auth keeps

    @classmethod
    def parse(cls, text: str) -> Self:
        """The location that a setting spells; InvalidArgument naming what is wrong, without repeating a secret."""
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise _invalid(f"is no URL: {error}") from None
        if parts.scheme in _S3 and "@" in parts.netloc:
            raise _invalid("must not carry credentials; leave them to the machine's AWS configuration")
        key_file, has_project_keys = None, parts.fragment == PROJECT_KEYS
        if parts.fragment and not has_project_keys:
            name, _, value = parts.fragment.partition("=")
            if name != "key_file" or not value.startswith("/"):
                raise _invalid(f"may end in '#{PROJECT_KEYS}', or in '#key_file=' and an absolute path, only")
            key_file = Path(value)
        if parts.scheme not in _S3:
            return cls(url=text.partition("#")[0], key_file=key_file, has_project_keys=has_project_keys)
        given = dict(parse_qsl(parts.query))
        unknown = sorted(set(given) - set(_OPTIONS))
        if unknown:
            raise _invalid(f"has an unknown option {unknown[0]!r}; known: {', '.join(_OPTIONS)}")
        client = {"region_name": given["region"]} if "region" in given else {}
        options: dict[str, Any] = {"use_listings_cache": False, "default_fill_cache": False, "client_kwargs": client}
        if "endpoint_url" in given:
            options["endpoint_url"] = given["endpoint_url"]
        url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
        return cls(url=url, options=options, key_file=key_file, has_project_keys=has_project_keys)


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={"artifacts": problem})
