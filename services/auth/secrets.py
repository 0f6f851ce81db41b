"""Secrets of projects: made, given new versions, described and ended. What is stored of a value is sealed."""

import uuid
from collections.abc import Callable, Mapping
from typing import Protocol

from chassis.etags import unchanged
from chassis.kv import Delete, DeletePrefix, Op, Put, list_all, mod, present
from chassis.requests import Claim
from lepton.auth.v1.secret_pb2 import Secret
from lepton.auth.v1.secret_service_pb2 import AddSecretVersionRequest, CreateSecretRequest, ListSecretsRequest
from lepton.internal.v1.secrets_pb2 import SecretUseRecord, SecretValueRecord
from lepton.names import ProjectName, SecretName, not_found
from services.auth import layout, secret_versions
from services.auth.audit import Deed
from services.auth.store import Store, resource_of, with_etag


class Sealer(Protocol):
    """Seals what belongs to a project with a key that is the project's alone."""

    async def seal(self, project_id: str, data: bytes, bound_to: str) -> bytes: ...
    async def open(self, project_id: str, sealed: bytes, bound_to: str) -> bytes: ...


class Secrets:
    """The secrets of all projects."""

    def __init__(self, store: Store, sealer: Sealer) -> None:
        self._store, self._sealer = store, sealer

    async def create(self, request: CreateSecretRequest) -> Secret:
        """A new secret with its first version."""
        project = ProjectName.parse(request.parent, "parent")
        name = SecretName(project.project, request.secret_id)
        secret = Secret(name=str(name), uid=str(uuid.uuid4()), display_name=request.secret.display_name)
        version = secret_versions.add(secret, self._store.clock.now())
        value = await self._sealed(name, secret.uid, version, request.value)

        async def check() -> None:
            await self._store.entry(project, layout.project(project))

        created = await self._store.create(
            request,
            secret,
            name,
            layout.secret(name),
            needs=[present(layout.project(project))],
            also=[value],
            check=check,
        )
        return _shown(created, {})

    async def add_version(self, request: AddSecretVersionRequest) -> Secret:
        """One more version; it is the newest."""
        name = SecretName.parse(request.name)

        async def write(claim: Claim) -> Secret | None:
            entry = await self._store.entry(name, layout.secret(name))
            secret = resource_of(entry, Secret)
            version = secret_versions.add(secret, self._store.clock.now())
            value = await self._sealed(name, secret.uid, version, request.value)
            self._touch(secret)
            done = await self._store.audit.commit(
                Deed(resource=_version_name(name, version)),
                [mod(entry.key, entry.mod_revision), *claim.guard],
                [Put(entry.key, secret.SerializeToString()), value, *claim.record(secret, str(name))],
            )
            return with_etag(secret, done.revision) if done.succeeded else None

        return _shown(await self._store.once(request, Secret, write), {})

    async def get(self, name: SecretName) -> Secret:
        """What is known of a secret."""
        secret = await self._store.get(name, layout.secret(name), Secret)
        return _shown(secret, await self._uses(layout.secret_uses(name)))

    async def page(self, request: ListSecretsRequest) -> tuple[list[Secret], str]:
        """The secrets of a project."""
        project = ProjectName.parse(request.parent, "parent")
        found, token = await self._store.page(layout.secrets(project), request, Secret)
        uses = await self._uses(layout.project_secret_uses(project))
        return [_shown(each, uses) for each in found], token

    async def usable(self, name: SecretName, wanted: int) -> int:
        """The version that a job gets which asks for one (0 = the newest). NotFound, FailedPrecondition."""
        return secret_versions.usable(await self._store.get(name, layout.secret(name), Secret), wanted)

    async def value(self, name: SecretName, wanted: int) -> tuple[int, bytes]:
        """The version that a job gets, and its value: for the delivery to agents, and for nothing else."""
        secret = await self._store.get(name, layout.secret(name), Secret)
        version = secret_versions.usable(secret, wanted)
        entry = await self._store.kv.get(layout.secret_value(name, version))
        if entry is None:
            raise not_found(name)  # deleted since it was read
        sealed = SecretValueRecord.FromString(entry.value).sealed
        return version, await self._sealer.open(name.project, sealed, _bound_to(name, secret.uid, version))

    async def set_enabled(self, name: SecretName, version: int, *, enabled: bool) -> Secret:
        """Give a secret, or one version of it, to jobs (again), or to none any more."""
        return await self._change(name, lambda secret: secret_versions.set_enabled(secret, version, enabled=enabled))

    async def destroy_version(self, name: SecretName, version: int) -> Secret:
        """Destroy the value of a version."""

        def mark(secret: Secret) -> None:
            secret_versions.destroy(secret, version, self._store.clock.now())

        return await self._change(name, mark, Delete(layout.secret_value(name, version)))

    async def delete(self, name: SecretName, etag: str) -> None:
        """Delete a secret with all of its values."""

        async def write() -> bool | None:
            entry = await self._store.entry(name, layout.secret(name))
            done = await self._store.audit.commit(
                Deed(resource=str(name)),
                [unchanged(entry, etag, name)],
                [Delete(entry.key), DeletePrefix(layout.secret_values(name)), DeletePrefix(layout.secret_uses(name))],
            )
            return done.succeeded or None

        await self._store.retry(write)

    async def _change(self, name: SecretName, change: Callable[[Secret], None], *also: Op) -> Secret:
        async def write() -> Secret | None:
            entry = await self._store.entry(name, layout.secret(name))
            secret = resource_of(entry, Secret)
            change(secret)
            self._touch(secret)
            done = await self._store.audit.commit(
                Deed(resource=str(name)),
                [mod(entry.key, entry.mod_revision)],
                [Put(entry.key, secret.SerializeToString()), *also],
            )
            return with_etag(secret, done.revision) if done.succeeded else None

        changed = await self._store.retry(write)
        return _shown(changed, await self._uses(layout.secret_uses(name)))

    async def _sealed(self, name: SecretName, uid: str, version: int, value: bytes) -> Put:
        sealed = await self._sealer.seal(name.project, value, _bound_to(name, uid, version))
        return Put(layout.secret_value(name, version), SecretValueRecord(sealed=sealed).SerializeToString())

    async def _uses(self, prefix: str) -> Mapping[str, SecretUseRecord]:
        found = (await list_all(self._store.kv, prefix)).entries
        return {each.key: SecretUseRecord.FromString(each.value) for each in found}

    def _touch(self, secret: Secret) -> None:
        secret.update_time.FromDatetime(self._store.clock.now())
        secret.ClearField("etag")


def _bound_to(name: SecretName, uid: str, version: int) -> str:
    """What a value is sealed for: a value that is moved, also to a later secret of the same name, does not open."""
    return f"{layout.secret_value(name, version)}#{uid}"


def _version_name(name: SecretName, version: int) -> str:
    return f"{name}/versions/{version}"


def _shown(secret: Secret, uses: Mapping[str, SecretUseRecord]) -> Secret:
    """A secret with what is not part of its document: the version that is current, and when each was last used."""
    name = SecretName.parse(secret.name)
    secret.current_version = secret_versions.current(secret)
    last = 0
    for each in secret.versions:
        use = uses.get(layout.secret_use(name, each.version))
        if use is not None:
            each.last_use_time.CopyFrom(use.use_time)
            if use.use_time.ToNanoseconds() > last:
                last = use.use_time.ToNanoseconds()
                secret.last_use_time.CopyFrom(use.use_time)
    return secret
