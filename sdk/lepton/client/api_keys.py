"""`client.api_keys`: what service accounts sign in with."""

from datetime import datetime

from lepton.auth.v1 import directory_service_pb2 as pb
from lepton.auth.v1.directory_service_pb2_grpc import DirectoryServiceStub
from lepton.auth.v1.principal_pb2 import ApiKey
from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.scope import Scope
from lepton.names import ApiKeyName, ServiceAccountName


class ApiKeys(Group):
    """Creates and deletes API keys."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = DirectoryServiceStub(calls.channel("auth"))

    async def create(self, service_account: str, api_key_id: str, *, expires: datetime | None = None) -> ApiKey:
        """A new key; its `secret` is in this answer and nowhere else. It works for 90 days, or until `expires`."""
        api_key = ApiKey()
        if expires is not None:
            api_key.expire_time.FromDatetime(expires)
        request = pb.CreateApiKeyRequest(
            parent=self._scope.name(ServiceAccountName, service_account), api_key_id=api_key_id, api_key=api_key
        )
        return await self._calls.unary(self._stub.CreateApiKey, request)

    async def delete(self, api_key: str) -> None:
        """Delete an API key, by its whole name."""
        request = pb.DeleteApiKeyRequest(name=str(ApiKeyName.parse(api_key)))
        await self._calls.unary(self._stub.DeleteApiKey, request)
