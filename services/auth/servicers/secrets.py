"""SecretService for people and programs, SecretDeliveryService for agents."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from lepton.auth.v1 import secret_service_pb2 as pb
from lepton.auth.v1 import secret_service_pb2_grpc
from lepton.auth.v1.secret_pb2 import Secret
from lepton.internal.v1 import secrets_pb2, secrets_pb2_grpc
from lepton.names import SecretName
from services.auth.secret_delivery import SecretDelivery
from services.auth.secrets import Secrets
from services.auth.servicers.caller import the_call


class SecretServicer(secret_service_pb2_grpc.SecretServiceServicer):
    """Serves secrets, and never a value."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    async def CreateSecret(self, request: pb.CreateSecretRequest, context: Any) -> Secret:
        return await self._secrets.create(request)

    async def AddSecretVersion(self, request: pb.AddSecretVersionRequest, context: Any) -> Secret:
        return await self._secrets.add_version(request)

    async def GetSecret(self, request: pb.GetSecretRequest, context: Any) -> Secret:
        return await self._secrets.get(SecretName.parse(request.name))

    async def ListSecrets(self, request: pb.ListSecretsRequest, context: Any) -> pb.ListSecretsResponse:
        found, token = await self._secrets.page(request)
        return pb.ListSecretsResponse(secrets=found, next_page_token=token)

    async def CheckSecret(self, request: pb.CheckSecretRequest, context: Any) -> pb.CheckSecretResponse:
        version = await self._secrets.usable(SecretName.parse(request.name), request.version)
        return pb.CheckSecretResponse(version=version)

    async def DisableSecret(self, request: pb.DisableSecretRequest, context: Any) -> Secret:
        return await self._secrets.set_enabled(SecretName.parse(request.name), request.version, enabled=False)

    async def EnableSecret(self, request: pb.EnableSecretRequest, context: Any) -> Secret:
        return await self._secrets.set_enabled(SecretName.parse(request.name), request.version, enabled=True)

    async def DestroySecretVersion(self, request: pb.DestroySecretVersionRequest, context: Any) -> Secret:
        return await self._secrets.destroy_version(SecretName.parse(request.name), request.version)

    async def DeleteSecret(self, request: pb.DeleteSecretRequest, context: Any) -> Empty:
        await self._secrets.delete(SecretName.parse(request.name), request.etag)
        return Empty()


class SecretDeliveryServicer(secrets_pb2_grpc.SecretDeliveryServiceServicer):
    """Serves agents."""

    def __init__(self, delivery: SecretDelivery) -> None:
        self._delivery = delivery

    async def ResolveSecrets(
        self, request: secrets_pb2.ResolveSecretsRequest, context: Any
    ) -> secrets_pb2.ResolveSecretsResponse:
        return await self._delivery.resolve(the_call().peer, request)
