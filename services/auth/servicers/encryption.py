"""EncryptionService for people, and ProjectKeyService for the mesh."""

from collections.abc import Awaitable, Callable
from typing import Any

from lepton.auth.v1 import encryption_service_pb2 as pb
from lepton.auth.v1 import encryption_service_pb2_grpc
from lepton.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from lepton.internal.v1 import project_keys_pb2 as keys_pb
from lepton.internal.v1 import project_keys_pb2_grpc
from lepton.names import ProjectName
from services.auth.project_encryption import ProjectEncryption
from services.auth.project_keys import ProjectKeys, Purpose
from services.auth.servicers.caller import the_call

Runs = Callable[[str, str], Awaitable[bool]]
"""Whether the node of an id runs anything of a project, by its name."""
_AGENT = "/agent/"


class EncryptionServicer(encryption_service_pb2_grpc.EncryptionServiceServicer):
    """lepton.auth.v1.EncryptionService."""

    def __init__(self, encryption: ProjectEncryption) -> None:
        self._encryption = encryption

    async def GetProjectEncryption(self, request: pb.GetProjectEncryptionRequest, context: Any) -> pb.ProjectEncryption:
        return await self._encryption.get(ProjectName.parse(request.project, "project"))

    async def RotateProjectKeys(self, request: pb.RotateProjectKeysRequest, context: Any) -> pb.ProjectEncryption:
        return await self._encryption.rotate(ProjectName.parse(request.project, "project"))

    async def ShredProject(self, request: pb.ShredProjectRequest, context: Any) -> pb.ProjectEncryption:
        name = ProjectName.parse(request.project, "project")
        if request.confirmation != str(name):
            raise InvalidArgument("INVALID_FIELD", fields={"confirmation": f"must be {name}: this cannot be undone"})
        return await self._encryption.shred(name)


class ProjectKeyServicer(project_keys_pb2_grpc.ProjectKeyServiceServicer):
    """lepton.internal.v1.ProjectKeyService."""

    def __init__(self, keys: ProjectKeys, encryption: ProjectEncryption, runs: Runs) -> None:
        self._keys, self._encryption, self._runs = keys, encryption, runs

    async def GetArtifactKeys(
        self, request: keys_pb.GetArtifactKeysRequest, context: Any
    ) -> keys_pb.GetArtifactKeysResponse:
        return await self._of(ProjectName.parse(request.project, "project"))

    async def GetNodeArtifactKeys(
        self, request: keys_pb.GetNodeArtifactKeysRequest, context: Any
    ) -> keys_pb.GetArtifactKeysResponse:
        name, node = ProjectName.parse(request.project, "project"), the_call().peer.partition(_AGENT)[2]
        if not node or not await self._runs(node, str(name)):
            raise PermissionDenied("PROJECT_NOT_ON_NODE", node=node, project=str(name))
        return await self._of(name)

    async def ReportRewrapped(
        self, request: keys_pb.ReportRewrappedRequest, context: Any
    ) -> keys_pb.ReportRewrappedResponse:
        name = ProjectName.parse(request.project, "project")
        return keys_pb.ReportRewrappedResponse(
            destroyed=await self._encryption.rewrapped(name, request.key_id, request.begin_time)
        )

    async def _of(self, name: ProjectName) -> keys_pb.GetArtifactKeysResponse:
        keys = await self._keys.keys(name.project, Purpose.ARTIFACTS)
        return keys_pb.GetArtifactKeysResponse(
            keys=(keys_pb.ArtifactKey(key_id=each.key_id, key=each.key) for each in keys)
        )


async def knows_no_scheduler(_node: str, _project: str) -> bool:
    """What stands for the scheduler in an auth that knows none."""
    problem = "auth knows no scheduler; set `scheduler` in [peers] of its settings"
    raise FailedPrecondition("ARTIFACT_KEYS_UNAVAILABLE", problem=problem)


def asks_scheduler(stub: Any) -> Runs:
    """Asks the scheduler."""

    async def runs(node: str, project: str) -> bool:
        answer: keys_pb.CheckNodeProjectResponse = await stub.CheckNodeProject(
            keys_pb.CheckNodeProjectRequest(node=node, project=project)
        )
        return answer.is_there

    return runs
