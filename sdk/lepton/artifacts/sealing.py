"""Encryption of artifacts: AES-256-GCM in chunks, so that it streams and a cut or reordered file is noticed.

    header, 1024 bytes   "lepton.sealed/1\\n", length of the wrapped data key (2 bytes, big-endian), that key, zeros
    chunks               up to 1 MiB each, encrypted, with a tag of 16 bytes; there is always a last one, maybe empty

The nonce of chunk n is n (11 bytes) and whether it is the last (1 byte), as in the STREAM construction (Hoang,
Reyhanitabar, Rogaway, Vizár 2015): no chunk can be moved, left out or cut off. The header is authenticated with every
chunk. A data key encrypts one artifact only, so the nonces never repeat under a key.

The digest that names an artifact is that of its plain bytes: digests are the same with and without encryption, equal
artifacts are stored once, and what is decrypted is verified end to end. The price: whoever sees the store's names can
tell whether it holds a file that he has himself.
"""

import os
from typing import Any, Final, Protocol

from lepton.artifacts.keys import KeyProvider, aes_gcm
from lepton.errors import FailedPrecondition

HEADER: Final = 1024
CHUNK: Final = 1 << 20
TAG: Final = 16
_MAGIC: Final = b"lepton.sealed/1\n"


class Unsealed(Protocol):
    """Turns stored bytes back, piece by piece."""

    def update(self, data: bytes) -> bytes:
        """What can be told by now."""
        ...

    def finish(self) -> bytes:
        """The rest; raises FailedPrecondition when something is missing."""
        ...


class Cipher:
    """Seals and opens artifacts with the keys of a provider."""

    def __init__(self, keys: KeyProvider) -> None:
        self._keys = keys

    def seal(self) -> "Sealing":
        """For one artifact to be stored."""
        data_key = os.urandom(32)
        wrapped = self._keys.wrap(data_key)
        header = (_MAGIC + len(wrapped).to_bytes(2, "big") + wrapped).ljust(HEADER, b"\0")
        return Sealing(aes_gcm(data_key), header)

    def unseal(self) -> "Opening":
        """For one artifact to be read."""
        return Opening(self._keys)


class Sealing:
    """One artifact on its way into the store."""

    def __init__(self, key: Any, header: bytes) -> None:
        self._key, self._header = key, header
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
        self._out += self._key.encrypt(_nonce(self._number, is_last), chunk, self._header)
        self._number += 1

    def _taken(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out


class Opening:
    """One artifact on its way out of the store."""

    def __init__(self, keys: KeyProvider) -> None:
        self._keys = keys
        self._key: Any = None
        self._header = b""
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
        self._header = bytes(self._rest[:HEADER])
        del self._rest[:HEADER]
        length = int.from_bytes(self._header[len(_MAGIC) : len(_MAGIC) + 2], "big")
        if not self._header.startswith(_MAGIC) or length > HEADER - len(_MAGIC) - 2:
            raise tampered("its header is none")
        start = len(_MAGIC) + 2
        self._key = aes_gcm(self._keys.unwrap(self._header[start : start + length]))

    def _decrypt(self, chunk: bytes, *, is_last: bool) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            plain: bytes = self._key.decrypt(_nonce(self._number, is_last), chunk, self._header)
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
