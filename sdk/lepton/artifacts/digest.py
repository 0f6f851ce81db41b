"""The name of an artifact: the SHA-256 of its bytes, before any encryption."""

import hashlib
import re
from typing import Final, NewType

from lepton.errors import InvalidArgument

Digest = NewType("Digest", str)  # "sha256:" and 64 hexadecimal digits

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def parse_digest(text: str, field: str = "digest") -> Digest:
    """The digest that `text` spells; InvalidArgument naming `field` when it spells none."""
    if _DIGEST.fullmatch(text) is None:
        raise InvalidArgument(
            "INVALID_FIELD", fields={field: "must be 'sha256:' followed by 64 lower-case hexadecimal digits"}
        )
    return Digest(text)


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """The digest under which `data` is stored."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())
