"""The keys of projects: made at first use, kept wrapped by a key provider, never handed out whole, destroyed for good.

    key provider  →  a project's key, by purpose and version  →  what is sealed, or the data keys of artifacts

A project's key is derived from 32 bytes that the provider wraps, and from the project, the purpose and the version: a
record that is moved elsewhere in the store gives another key, not this one. Only the newest version seals. Nothing but
the record in the store opens a project's key, so whoever deletes the records has destroyed the key; a copy of the store
still holds them, wrapped, until the provider's key is retired (docs/security.md).
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from chassis.call import current_call
from chassis.clock import Clock
from chassis.kv import KV, Compare, Delete, DeletePrefix, Entry, Op, Put, absent, list_all, mod, present
from lepton.artifacts.keys import RotatingKeyProvider
from lepton.errors import Aborted, FailedPrecondition
from lepton.internal.v1.project_keys_pb2 import ProjectKeyRecord, ShreddedProject
from lepton.names import ProjectName, not_found
from services.auth import layout
from services.auth.audit import AuditTrail, Deed

ACTOR: Final = "service/auth"
_BYTES: Final = 32
_NONCE: Final = 12
_FORMAT: Final = b"\x01"  # of what `seal` returns: format, version (4 bytes, big-endian), nonce, ciphertext with tag
_ATTEMPTS: Final = 8


class Purpose(StrEnum):
    """What a key is for. They are apart because those of artifacts leave this service, and no other does."""

    DATA = "data"
    ARTIFACTS = "artifacts"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectKey:
    """One version of a project's key."""

    version: int
    key_id: str
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Destruction:
    """The part of a transaction that destroys the keys of a project, and what to say of it in the audit log."""

    guard: Sequence[Compare]
    then: Sequence[Op]
    reason: str


class ProjectKeys:
    """Seals and opens what belongs to a project, with a key that is the project's alone."""

    def __init__(self, kv: KV, provider: RotatingKeyProvider, audit: AuditTrail, clock: Clock) -> None:
        self._kv, self._provider, self._audit, self._clock = kv, provider, audit, clock
        self._opened: dict[str, ProjectKey] = {}  # by where the record lies; used only while the record is there

    async def seal(self, project_id: str, data: bytes, bound_to: str) -> bytes:
        """Encrypt `data` for storage at `bound_to`. Raises NotFound, FailedPrecondition (PROJECT_SHREDDED)."""
        newest = (await self.keys(project_id, Purpose.DATA))[0]
        nonce, prefix = secrets.token_bytes(_NONCE), _FORMAT + newest.version.to_bytes(4, "big")
        return prefix + nonce + AESGCM(newest.key).encrypt(nonce, data, _bound(project_id, bound_to, prefix))

    async def open(self, project_id: str, sealed: bytes, bound_to: str) -> bytes:
        """Decrypt what was sealed for `bound_to`. FailedPrecondition when the key is gone, or anything was changed."""
        prefix, nonce, ciphertext = sealed[:5], sealed[5 : 5 + _NONCE], sealed[5 + _NONCE :]
        version = version_of(sealed)
        for key in await self._present(project_id, Purpose.DATA):
            if key.version == version and sealed[:1] == _FORMAT and len(nonce) == _NONCE:
                try:
                    return AESGCM(key.key).decrypt(nonce, ciphertext, _bound(project_id, bound_to, prefix))
                except InvalidTag as error:
                    raise FailedPrecondition("SEALED_DATA_TAMPERED", resource=bound_to) from error
        await self._check_not_shredded(project_id)
        raise FailedPrecondition("PROJECT_KEY_MISSING", project=f"projects/{project_id}", version=str(version))

    async def shred(self, project_id: str) -> None:
        """Destroy every key of a project: nothing that was sealed with them opens again, and none is made again."""
        name = ProjectName(project_id)
        for _ in range(_ATTEMPTS):
            done = await self.destruction(name)
            deed = Deed(resource=str(name), reason=done.reason)
            if (await self._audit.commit(deed, done.guard, done.then)).succeeded:
                return
        raise Aborted("WRITE_CONFLICT")

    async def destruction(self, name: ProjectName) -> Destruction:
        """What destroys the keys of a project within a transaction of the caller's."""
        records = [(each, ProjectKeyRecord.FromString(each.value)) for each in await self._entries(name.project)]
        shredded = await self._kv.get(layout.shredded_project(name))
        mark = ShreddedProject() if shredded is None else ShreddedProject.FromString(shredded.value)
        new = [record.key_id for _, record in records]
        if shredded is None:
            call = current_call()
            mark.actor = call.principal.name if call is not None and call.principal is not None else ACTOR
            mark.shred_time.FromDatetime(self._clock.now())
        mark.key_ids.extend(new)
        guard = [mod(layout.shredded_project(name), shredded.mod_revision if shredded is not None else 0)]
        for purpose in Purpose:  # a key that is made meanwhile would not be in the list
            versions = [record.version for entry, record in records if _purpose(entry) == purpose]
            guard.append(absent(layout.project_key(name, purpose, max(versions, default=0) + 1)))
        put = Put(layout.shredded_project(name), mark.SerializeToString())
        then: list[Op] = [DeletePrefix(layout.project_keys(name)), put]
        return Destruction(guard=guard, then=then, reason=_told(new))

    async def keys(self, project_id: str, purpose: Purpose) -> list[ProjectKey]:
        """The versions of a project's key, newest first; the first is made when there is none.

        NotFound when there is no such project, FailedPrecondition when its keys were destroyed.
        """
        for _ in range(_ATTEMPTS):
            if found := await self._present(project_id, purpose):
                return found
            await self._check_not_shredded(project_id)
            await self._make(ProjectName(project_id), purpose, 1)
        raise Aborted("WRITE_CONFLICT")

    async def rotate(self, project_id: str) -> None:
        """A new version of each key. The former ones open what they have sealed, until nothing is left of that."""
        name = ProjectName(project_id)
        for purpose in Purpose:
            newest = (await self.keys(project_id, purpose))[0]
            # Of two rotations at once both are content with the version that one of them has made.
            await self._make(name, purpose, newest.version + 1)

    async def destroy_before(self, project_id: str, purpose: Purpose, key_id: str) -> list[str]:
        """Destroy the versions before the one of this id, when it is the newest; the ids of those that are gone."""
        name = ProjectName(project_id)
        entries = await self._entries(project_id, purpose)
        records = [ProjectKeyRecord.FromString(each.value) for each in entries]
        if not records or records[-1].key_id != key_id or len(records) == 1:
            return []
        gone = [record.key_id for record in records[:-1]]
        newest = entries[-1]
        guard = [
            mod(newest.key, newest.mod_revision),
            absent(layout.project_key(name, purpose, records[-1].version + 1)),
        ]
        # The newest is written anew, so that two who do it at once do it once.
        then: list[Op] = [Put(newest.key, newest.value), *(Delete(each.key) for each in entries[:-1])]
        deed = Deed(resource=f"{name}/keys/{purpose}", actor=ACTOR, action="projectKeys.retire", reason=_told(gone))
        return gone if (await self._audit.beside(deed, guard, then)).succeeded else []

    async def rewrap(self) -> int:
        """Wrap every project's key by the provider's current key where it is not yet; how many were.

        What it reaches is done for good, so it can be stopped and called again. Nothing that the keys sealed changes.
        """
        count = 0
        for entry in (await list_all(self._kv, layout.PROJECT_KEYS)).entries:
            record = ProjectKeyRecord.FromString(entry.value)
            if await asyncio.to_thread(self._provider.is_current, record.wrapped):
                continue
            secret = await asyncio.to_thread(self._provider.unwrap, record.wrapped)
            record.wrapped = await asyncio.to_thread(self._provider.wrap, secret)
            record.wrap_time.FromDatetime(self._clock.now())
            resource = f"projects/{entry.key.removeprefix(layout.PROJECT_KEYS)}"
            deed = Deed(resource=resource, actor=ACTOR, action="projectKeys.rewrap", reason=self._provider.current)
            put = Put(entry.key, record.SerializeToString())
            count += (await self._audit.beside(deed, [mod(entry.key, entry.mod_revision)], [put])).succeeded
        return count

    async def records(self, project_id: str, purpose: Purpose) -> list[ProjectKeyRecord]:
        """The versions of a project's key as they are stored, newest first."""
        entries = await self._entries(project_id, purpose)
        return [ProjectKeyRecord.FromString(each.value) for each in reversed(entries)]

    async def shredded(self, project_id: str) -> ShreddedProject | None:
        """What is known of the destruction of a project's keys; None when they were not destroyed."""
        entry = await self._kv.get(layout.shredded_project(ProjectName(project_id)))
        return None if entry is None else ShreddedProject.FromString(entry.value)

    async def _present(self, project_id: str, purpose: Purpose) -> list[ProjectKey]:
        entries = await self._entries(project_id, purpose)
        prefix = layout.project_keys(ProjectName(project_id), purpose)
        here = {each.key for each in entries}
        self._opened = {key: value for key, value in self._opened.items() if key in here or not key.startswith(prefix)}
        return [await self._open(project_id, purpose, each) for each in reversed(entries)]

    async def _open(self, project_id: str, purpose: Purpose, entry: Entry) -> ProjectKey:
        record = ProjectKeyRecord.FromString(entry.value)
        opened = self._opened.get(entry.key)
        if opened is None or opened.key_id != record.key_id:
            secret = await asyncio.to_thread(self._provider.unwrap, record.wrapped)
            opened = derived(secret, project_id, purpose, record.version)
            if opened.key_id != record.key_id:
                raise FailedPrecondition("SEALED_DATA_TAMPERED", resource=f"projects/{project_id}/keys/{purpose}")
            self._opened[entry.key] = opened
        return opened

    async def _make(self, name: ProjectName, purpose: Purpose, version: int) -> None:
        """Make a version, unless somebody else has, or the project is none (any more)."""
        if await self._kv.get(layout.project(name)) is None:
            raise not_found(name)
        secret = secrets.token_bytes(_BYTES)
        record = ProjectKeyRecord(version=version, key_id=derived(secret, name.project, purpose, version).key_id)
        record.wrapped = await asyncio.to_thread(self._provider.wrap, secret)
        record.create_time.FromDatetime(self._clock.now())
        record.wrap_time.CopyFrom(record.create_time)
        key = layout.project_key(name, purpose, version)
        deed = Deed(resource=f"{name}/keys/{purpose}", actor=ACTOR, action="projectKeys.make", reason=record.key_id)
        guard = [present(layout.project(name)), absent(layout.shredded_project(name)), absent(key)]
        if version > 1:
            guard.append(present(layout.project_key(name, purpose, version - 1)))
        await self._audit.beside(deed, guard, [Put(key, record.SerializeToString())])

    async def _check_not_shredded(self, project_id: str) -> None:
        if await self._kv.get(layout.shredded_project(ProjectName(project_id))) is not None:
            raise FailedPrecondition("PROJECT_SHREDDED", project=f"projects/{project_id}")

    async def _entries(self, project_id: str, purpose: Purpose | None = None) -> Sequence[Entry]:
        return (await list_all(self._kv, layout.project_keys(ProjectName(project_id), purpose or ""))).entries


def derived(secret: bytes, project_id: str, purpose: Purpose, version: int) -> ProjectKey:
    """The key that a wrapped secret stands for at one place, and its id: HKDF (RFC 5869) over SHA-256."""
    about = f"lepton project key {project_id} {purpose} {version}"
    key, key_id = (
        HKDF(algorithm=hashes.SHA256(), length=_BYTES, salt=None, info=f"{about} {what}".encode()).derive(secret)
        for what in ("key", "id")
    )
    return ProjectKey(version=version, key_id=key_id.hex()[:24], key=key)


def version_of(sealed: bytes) -> int:
    """The version of the key that sealed it: what is older than the newest can be sealed anew."""
    return int.from_bytes(sealed[1:5], "big")


def _bound(project_id: str, bound_to: str, prefix: bytes) -> bytes:
    return b"\0".join((prefix, project_id.encode(), bound_to.encode()))


def _purpose(entry: Entry) -> str:
    return entry.key.split("/")[-2]


def _told(key_ids: Sequence[str]) -> str:
    """The ids of destroyed keys as the audit log tells them; of very many their digest."""
    text = " ".join(key_ids)
    if len(key_ids) > 16:
        digest = hashes.Hash(hashes.SHA256())
        digest.update(text.encode())
        text = f"those whose ids have the SHA-256 {digest.finalize().hex()}"
    return f"{len(key_ids)} keys destroyed: {text}" if key_ids else "there were no keys"
