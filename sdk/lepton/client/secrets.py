"""`client.secrets`: values that jobs are given and that nobody reads back."""

from collections.abc import Iterable
from typing import Any

from lepton.auth.v1 import secret_service_pb2 as pb
from lepton.auth.v1.secret_pb2 import Secret
from lepton.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.names import SecretName


class Secrets(Group):
    """Makes secrets, gives them new values, and ends them."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = SecretServiceStub(calls.channel("auth"))

    async def create(
        self,
        secret_id: str,
        value: bytes,
        *,
        display_name: str = "",
        project: str | None = None,
        request_id: str = "",
    ) -> Secret:
        """A new secret. Its value can be given to jobs (`Job.secrets`), and is never told again. AlreadyExists."""
        request = pb.CreateSecretRequest(
            parent=self._scope.parent(project),
            secret_id=secret_id,
            secret=Secret(display_name=display_name),
            value=value,
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateSecret, request)

    async def add_version(self, secret: str, value: bytes, *, request_id: str = "") -> Secret:
        """A new value: jobs that start from now on get it, unless they name a version."""
        request = pb.AddSecretVersionRequest(
            name=self._name(secret), value=value, request_id=request_id or new_request_id()
        )
        return await self._calls.unary(self._stub.AddSecretVersion, request)

    async def get(self, secret: str) -> Secret:
        """What is known of a secret: its versions, and when they were used."""
        return await self._calls.unary(self._stub.GetSecret, pb.GetSecretRequest(name=self._name(secret)))

    def list(self, *, project: str | None = None, page_size: int = 0) -> Listing[Secret]:
        """The secrets of a project."""
        parent = self._scope.parent(project)

        async def page(token: str) -> Page[Secret]:
            request = pb.ListSecretsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListSecrets, request)
            return answer.secrets, answer.next_page_token

        return Listing(page)

    async def check(self, secret: str, version: int = 0) -> int:
        """The version that a job of the caller would get now. PermissionDenied, NotFound, FailedPrecondition."""
        request = pb.CheckSecretRequest(name=self._name(secret), version=version)
        return (await self._calls.unary(self._stub.CheckSecret, request)).version

    async def set_enabled(self, secret: str, version: int = 0, *, enabled: bool) -> Secret:
        """Give a secret (or one version of it) to jobs, or to none any more."""
        name = self._name(secret)
        if enabled:
            return await self._calls.unary(self._stub.EnableSecret, pb.EnableSecretRequest(name=name, version=version))
        return await self._calls.unary(self._stub.DisableSecret, pb.DisableSecretRequest(name=name, version=version))

    async def destroy_version(self, secret: str, version: int) -> Secret:
        """Destroy the value of a version for good."""
        request = pb.DestroySecretVersionRequest(name=self._name(secret), version=version)
        return await self._calls.unary(self._stub.DestroySecretVersion, request)

    async def delete(self, secret: str, *, etag: str = "") -> None:
        """Delete a secret with all of its values."""
        await self._calls.unary(self._stub.DeleteSecret, pb.DeleteSecretRequest(name=self._name(secret), etag=etag))

    def _name(self, secret: str) -> str:
        return self._scope.name(SecretName, secret)


def complete(mounts: Iterable[Any], parent: str) -> None:
    """Makes the names of mounted secrets whole that are ids: they are those of the project that the job runs in."""
    for mount in mounts:
        if mount.secret and "/" not in mount.secret:
            mount.secret = f"{parent}/secrets/{mount.secret}"
