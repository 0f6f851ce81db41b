"""Encryption of artifacts: AES-256-GCM in chunks, so that it streams and a cut or reordered file is noticed.

    header, 1024 bytes   "lepton.sealed/2\\n", id (16 bytes), length of the wrapped data key (2 bytes, big-endian), that
                         key, zeros
    chunks               up to 1 MiB each, encrypted, with a tag of 16 bytes; there is always a last one, maybe empty

The nonce of chunk n is n (11 bytes) and whether it is the last (1 byte), as in the STREAM construction (Hoang,
Reyhanitabar, Rogaway, Vizár 2015): no chunk can be moved, left out or cut off. The id is authenticated with every
chunk. A data key encrypts one artifact only, so the nonces never repeat under a key. The wrapped key is not
authenticated: with another one no chunk opens, and so it can be wrapped anew while the chunks stay (rewrapping.py).
What begins with "lepton.sealed/1", without an id and authenticated with its whole header, is still read.

The digest that names an artifact is that of its plain bytes: digests are the same with and without encryption, equal
artifacts are stored once, and what is decrypted is verified end to end. The price: whoever sees the store's names can
tell whether it holds a file that he has himself.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from lepton.artifacts.keys import KeyProvider, aes_gcm
from lepton.errors import FailedPrecondition

HEADER: Final = 1024
CHUNK: Final = 1 << 20
TAG: Final = 16
_FIRST: Final = b"lepton.sealed/1\n"
_MAGIC: Final = b"lepton.sealed/2\n"
_ID: Final = 16

Rewrapped = Callable[[bytes], bytes | None]
"""The data key of the artifact of an id as it was wrapped later; None when it was not."""


class Ciphers(Protocol):
    """What seals the artifacts of each project."""

    def of(self, project: str) -> "Cipher":
        """The project's. Raises FailedPrecondition."""
        ...


class Cipher:
    """Seals and opens artifacts with the keys of a provider."""

    def __init__(self, keys: KeyProvider) -> None:
        self._keys = keys

    @property
    def keys(self) -> KeyProvider:
        """Who wraps the data keys."""
        return self._keys

    def of(self, project: str) -> Self:
        """Itself: one cipher for whatever a store holds."""
        return self

    def seal(self) -> "Sealing":
        """For one artifact to be stored."""
        data_key = os.urandom(32)
        wrapped = self._keys.wrap(data_key)
        bound = _MAGIC + os.urandom(_ID)
        header = (bound + len(wrapped).to_bytes(2, "big") + wrapped).ljust(HEADER, b"\0")
        return Sealing(aes_gcm(data_key), header, bound)

    def unseal(self, rewrapped: Rewrapped | None = None) -> "Opening":
        """For one artifact to be read."""
        return Opening(self._keys, rewrapped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a sealed artifact begins with."""

    bound: bytes  # authenticated with every chunk
    artifact_id: bytes  # empty for those of the first format
    wrapped: bytes  # empty when it was wrapped anew, elsewhere

    @classmethod
    def parse(cls, header: bytes) -> Self:
        """The header of 1024 bytes; FailedPrecondition when it is none."""
        is_first = header.startswith(_FIRST)
        start = len(_MAGIC) + (0 if is_first else _ID)
        length = int.from_bytes(header[start : start + 2], "big")
        end = start + 2 + length
        if not header.startswith((_FIRST, _MAGIC)) or end > HEADER or len(header) != HEADER or any(header[end:]):
            raise tampered("its header is none")
        wrapped = header[start + 2 : end]
        if is_first:
            return cls(bound=header, artifact_id=b"", wrapped=wrapped)
        return cls(bound=header[:start], artifact_id=header[len(_MAGIC) : start], wrapped=wrapped)

    def data_key(self, keys: KeyProvider, rewrapped: Rewrapped | None) -> bytes:
        """The data key, from the header or as it was wrapped later. Raises FailedPrecondition."""
        missing: FailedPrecondition | None = None
        if self.wrapped:
            try:
                return keys.unwrap(self.wrapped)
            except FailedPrecondition as error:
                if error.reason != "ARTIFACT_KEY_MISSING":
                    raise
                missing = error
        later = rewrapped(self.artifact_id) if rewrapped is not None and self.artifact_id else None
        if later is None:
            raise missing or tampered("its key is missing")
        return keys.unwrap(later)


class Sealing:
    """One artifact on its way into the store."""

    def __init__(self, key: Any, header: bytes, bound: bytes) -> None:
        self._key, self._bound = key, bound
        self._out = bytearray(header)
        self._rest = bytearray()
        self._number = 0

    def update(self, data: memoryview) -> bytes:
        """What can be stored by now: a chunk only once it is known not to be the last."""
        self._rest += data
        while len(self._rest) > CHUNK:
            self._encrypt(bytes(self._rest[:CHUNK]), is_last=False)
            del self._rest[:CHUNK]
        return self._taken()

    def finish(self) -> bytes:
        """The last chunk."""
        self._encrypt(bytes(self._rest), is_last=True)
        return self._taken()

    def _encrypt(self, chunk: bytes, *, is_last: bool) -> None:
        self._out += self._key.encrypt(_nonce(self._number, is_last), chunk, self._bound)
        self._number += 1

    def _taken(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out


class Opening:
    """One artifact on its way out of the store."""

    def __init__(self, keys: KeyProvider, rewrapped: Rewrapped | None) -> None:
        self._keys, self._rewrapped = keys, rewrapped
        self._key: Any = None
        self._bound = b""
        self._rest = bytearray()
        self._number = 0

    def update(self, data: bytes) -> bytes:
        """The plain bytes of every chunk that is complete and not the last."""
        self._rest += data
        if self._key is None and len(self._rest) >= HEADER:
            self._begin()
        out = bytearray()
        while self._key is not None and len(self._rest) > CHUNK + TAG:
            out += self._decrypt(bytes(self._rest[: CHUNK + TAG]), is_last=False)
            del self._rest[: CHUNK + TAG]
        return bytes(out)

    def finish(self) -> bytes:
        """The plain bytes of the last chunk."""
        if self._key is None:
            raise tampered("it is cut short")
        return self._decrypt(bytes(self._rest), is_last=True)

    def _begin(self) -> None:
        header = Header.parse(bytes(self._rest[:HEADER]))
        del self._rest[:HEADER]
        self._bound = header.bound
        self._key = aes_gcm(header.data_key(self._keys, self._rewrapped))

    def _decrypt(self, chunk: bytes, *, is_last: bool) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            plain: bytes = self._key.decrypt(_nonce(self._number, is_last), chunk, self._bound)
        except (InvalidTag, ValueError) as error:
            raise tampered(f"chunk {self._number} does not match its tag") from error
        self._number += 1
        return plain


def plain_size(stored: int) -> int:
    """The size of an artifact whose sealed form has `stored` bytes."""
    body = max(stored - HEADER, TAG)
    return body - TAG * -(-body // (CHUNK + TAG))


def tampered(problem: str) -> FailedPrecondition:
    """What is raised when sealed bytes are not those that were stored."""
    return FailedPrecondition("ARTIFACT_TAMPERED", problem=problem)


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes((is_last,))
