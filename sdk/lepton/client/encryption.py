"""`client.encryption`: the keys that a project's data is sealed with."""

from lepton.auth.v1 import encryption_service_pb2 as pb
from lepton.auth.v1.encryption_service_pb2_grpc import EncryptionServiceStub
from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.scope import Scope


class Encryption(Group):
    """Sees, changes and destroys the keys of projects; a key itself is never shown."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = EncryptionServiceStub(calls.channel("auth"))

    async def get(self, project: str = "") -> pb.ProjectEncryption:
        """Which keys a project has; the client's own project when none is given."""
        request = pb.GetProjectEncryptionRequest(project=self._scope.parent(project))
        return await self._calls.unary(self._stub.GetProjectEncryption, request)

    async def rotate(self, project: str = "") -> pb.ProjectEncryption:
        """New keys, by which what is stored already is sealed in the background."""
        request = pb.RotateProjectKeysRequest(project=self._scope.parent(project))
        return await self._calls.unary(self._stub.RotateProjectKeys, request)

    async def shred(self, project: str, *, confirmation: str) -> pb.ProjectEncryption:
        """Destroy the keys for good; `confirmation` is the project's name, `projects/<id>`."""
        request = pb.ShredProjectRequest(project=self._scope.parent(project), confirmation=confirmation)
        return await self._calls.unary(self._stub.ShredProject, request)
