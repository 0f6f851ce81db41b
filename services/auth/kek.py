"""The key-encryption key: seals the private keys that lie in the store, and derives the service's other secrets."""

import os
import secrets
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lepton.internal.v1 import credentials_pb2

_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class KekError(Exception):
    """The key-encryption key is missing or is not the one that sealed the store's keys."""


class Kek:
    """256 bits kept in a file outside of the store; every replica of auth has the same."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != _BYTES:
            raise KekError(f"a key-encryption key has {_BYTES} bytes, not {len(secret)}")
        self._secret = secret
        self._seal = AESGCM(self.derive("seal"))
        self.id = self.derive("id").hex()[:16]

    @classmethod
    def load(cls, path: Path) -> Self:
        """The key in a file that `create` wrote."""
        try:
            return cls(bytes.fromhex(path.read_text().strip()))
        except (OSError, ValueError) as error:
            raise KekError(f"cannot read the key-encryption key {path}: {error}") from error

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The key in the file, which is made when there is none, readable by its owner only."""
        write_secret(path, secrets.token_bytes(_BYTES).hex())
        return cls.load(path)

    def seal(self, data: bytes, bound_to: str) -> credentials_pb2.SealedKey:
        """Encrypt a key for storage at `bound_to`; it opens nowhere else."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        ciphertext = self._seal.encrypt(nonce, data, bound_to.encode())
        return credentials_pb2.SealedKey(kek_id=self.id, nonce=nonce, ciphertext=ciphertext)

    def open(self, sealed: credentials_pb2.SealedKey, bound_to: str) -> bytes:
        """Decrypt what was sealed for `bound_to`."""
        if sealed.kek_id != self.id:
            raise KekError(f"{bound_to} was sealed by key {sealed.kek_id}; the kek_file holds key {self.id}")
        try:
            return self._seal.decrypt(sealed.nonce, sealed.ciphertext, bound_to.encode())
        except InvalidTag as error:
            raise KekError(f"{bound_to} was altered after it was sealed") from error

    def derive(self, purpose: str) -> bytes:
        """A secret for one purpose, the same in every replica."""
        info = f"lepton auth {purpose}".encode()
        return HKDF(algorithm=hashes.SHA256(), length=_BYTES, salt=None, info=info).derive(self._secret)


def write_secret(path: Path, text: str) -> bool:
    """Write a new file that only its owner can read; leave an existing one alone and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename, never replaces what another process wrote meanwhile
        except FileExistsError:
            return False
        return True
    finally:
        draft.unlink(missing_ok=True)
