"""The keyring file of project keys: made, given another key to wrap with, and rid of one that is not used any more."""

import base64
import os
import secrets
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from chassis.kv import KV, list_all
from lepton.artifacts.keys import KeyFile, key_name
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.internal.v1.project_keys_pb2 import ProjectKeyRecord
from services.auth import layout
from services.auth.kek import write_secret

_BYTES = 32


def create_keyring(path: Path) -> bool:
    """Make a keyring with one key, readable by its owner only; an existing one stays, and False is returned."""
    return write_secret(path, _line(_new_name()))


def add_key(path: Path) -> str:
    """Put a new key first, so that it wraps from now on; its name. Every replica of auth reads the file again."""
    KeyFile(path)  # nothing is added to what cannot be read
    name = _new_name()
    _replace(path, f"{_line(name)}\n{path.read_text()}")
    return name


def retire_key(path: Path, name: str, used: Mapping[str, int]) -> None:
    """Remove a key. Raises NotFound, and FailedPrecondition while it is used or is the one that wraps.

    What an older copy of the store holds under it can never be opened again: that is the end of shredding a project.
    """
    lines = path.read_text().splitlines()
    kept = [line for line in lines if line.partition(" ")[0] != name]
    if len(kept) == len(lines):
        raise NotFound("KEYRING_KEY_NOT_FOUND", key=name, keyring=str(path))
    if KeyFile(path).current == name:
        raise FailedPrecondition("KEYRING_KEY_IN_USE", key=name, problem="it is the one that wraps; add another first")
    if name in used:
        problem = f"it wraps {used[name]} keys of projects; wait until auth has wrapped them by the newest"
        raise FailedPrecondition("KEYRING_KEY_IN_USE", key=name, problem=problem)
    _replace(path, "\n".join(kept) + "\n")


async def used_keys(kv: KV) -> Mapping[str, int]:
    """How many keys of projects each key wraps."""
    entries = (await list_all(kv, layout.PROJECT_KEYS)).entries
    return Counter(key_name(ProjectKeyRecord.FromString(each.value).wrapped) for each in entries)


def names(path: Path) -> list[str]:
    """The keys of a keyring, the one that wraps first."""
    KeyFile(path)
    return [line.partition(" ")[0] for line in path.read_text().splitlines() if line and not line.startswith("#")]


def _new_name() -> str:
    return f"keyring-{secrets.token_hex(6)}"


def _line(name: str) -> str:
    return f"{name} {base64.b64encode(secrets.token_bytes(_BYTES)).decode()}"


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    mode = path.stat().st_mode & 0o777
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def check_keyring(path: Path | None) -> Path:
    """The keyring that the settings name. Raises InvalidArgument."""
    if path is None:
        problem = "is empty; name the file that shall hold the keys"
        raise InvalidArgument("INVALID_FIELD", fields={"project_keys.keyring_file": problem})
    return path
