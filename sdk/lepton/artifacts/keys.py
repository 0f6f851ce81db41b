"""Who keeps the keys that artifacts are encrypted with: an interface, and keys in a file.

Every artifact has a data key of its own, which is stored beside it wrapped by a key of the provider. So a provider
sees 32 bytes an artifact, never the artifact, and a key-management service fits behind the same two methods.
"""

import base64
import binascii
import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol, Self, runtime_checkable

from lepton.errors import FailedPrecondition, InvalidArgument

_NONCE: Final = 12
_ID: Final = 32


class KeyProvider(Protocol):
    """Wraps data keys."""

    def wrap(self, data_key: bytes) -> bytes:
        """The data key as it may be stored; at most 900 bytes."""
        ...

    def unwrap(self, wrapped: bytes) -> bytes:
        """The data key again. Raises FailedPrecondition."""
        ...


@runtime_checkable
class RotatingKeyProvider(KeyProvider, Protocol):
    """A provider whose current key changes: what a former one wrapped can be wrapped anew."""

    @property
    def current(self) -> str:
        """The name of the key that wraps now."""
        ...

    def is_current(self, wrapped: bytes) -> bool:
        """Whether the key that wraps now has wrapped this."""
        ...


class KeyFile:
    """Keys in a file, a line `<name> <base64 of 32 bytes>` each: the first wraps, the others still unwrap.

    To change keys put a new line first; artifacts of the older ones stay readable as long as their lines do.
    """

    def __init__(self, path: Path) -> None:
        self._keys: dict[str, Any] = {}
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o007:
                raise _invalid(path, "others may read it; take their rights away")
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise _invalid(path, f"it cannot be read ({error})") from error
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                name, _, text = line.strip().partition(" ")
                try:
                    key = base64.b64decode(text.strip(), validate=True)
                except (binascii.Error, ValueError):
                    key = b""
                if len(key) != 32 or not 0 < len(name.encode()) <= _ID:
                    raise _invalid(path, f"line {number} is not a name and the base64 of 32 bytes")
                self._keys.setdefault(name, aes_gcm(key))
        if not self._keys:
            raise _invalid(path, "it holds no key")

    @classmethod
    def of(cls, keys: Mapping[str, bytes]) -> Self:
        """Keys that are in memory already, the one that wraps first."""
        made = cls.__new__(cls)
        made._keys = {name: aes_gcm(key) for name, key in keys.items()}  # noqa: SLF001 (its own)
        return made

    @staticmethod
    def create(path: Path, name: str) -> None:
        """Writes a file with one new random key, readable by its owner only. Raises FileExistsError."""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{name} {base64.b64encode(os.urandom(32)).decode()}\n")

    @property
    def current(self) -> str:
        """The name of the first key."""
        return next(iter(self._keys))

    def is_current(self, wrapped: bytes) -> bool:
        """Whether the first key has wrapped this."""
        return wrapped[:_ID] == self.current.encode().ljust(_ID, b"\0")

    def wrap(self, data_key: bytes) -> bytes:
        """The data key under the first key."""
        name, key = next(iter(self._keys.items()))
        nonce, label = os.urandom(_NONCE), name.encode().ljust(_ID, b"\0")
        return label + nonce + bytes(key.encrypt(nonce, data_key, label))

    def unwrap(self, wrapped: bytes) -> bytes:
        """The data key again; FailedPrecondition when its key is not in the file, or it was tampered with."""
        label, nonce, sealed = wrapped[:_ID], wrapped[_ID : _ID + _NONCE], wrapped[_ID + _NONCE :]
        name = key_name(wrapped)
        if name not in self._keys:
            raise FailedPrecondition("ARTIFACT_KEY_MISSING", key=name)
        try:
            return bytes(self._keys[name].decrypt(nonce, sealed, label))
        except (_invalid_tag(), ValueError) as error:
            raise FailedPrecondition("ARTIFACT_KEY_MISSING", key=name) from error


def key_name(wrapped: bytes) -> str:
    """The name of the key of a file that has wrapped this."""
    return wrapped[:_ID].rstrip(b"\0").decode(errors="replace")


class Keyring:
    """A key file that is read again when it has changed; while it cannot be read, its former keys go on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _version(path)
        self._keys = KeyFile(path)

    @property
    def current(self) -> str:
        """The name of the first key."""
        return self._fresh().current

    def is_current(self, wrapped: bytes) -> bool:
        """Whether the first key has wrapped this."""
        return self._fresh().is_current(wrapped)

    def wrap(self, data_key: bytes) -> bytes:
        """The data key under the first key."""
        return self._fresh().wrap(data_key)

    def unwrap(self, wrapped: bytes) -> bytes:
        """The data key again. Raises FailedPrecondition."""
        return self._fresh().unwrap(wrapped)

    def _fresh(self) -> KeyFile:
        # Without a lock, for ranks fork: two threads at once read it twice.
        found = _version(self._path)
        if found != self._seen:
            with contextlib.suppress(InvalidArgument):
                self._keys, self._seen = KeyFile(self._path), found
        return self._keys


def _version(path: Path) -> tuple[int, int, int]:
    """What tells one state of a file from another; a file that is replaced by a rename has another inode."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def aes_gcm(key: bytes) -> Any:
    """AES-256-GCM of the cryptography library, which only stores with encryption need."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise FailedPrecondition("EXTRA_MISSING", package="cryptography", extra="encryption") from error
    return AESGCM(key)


def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def _invalid(path: Path, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={"artifacts.key_file": f"is {path}: {problem}"})
