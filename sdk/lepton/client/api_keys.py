"""`client.api_keys`: what service accounts sign in with."""

from collections.abc import Collection
from datetime import datetime

from lepton.auth.v1 import directory_service_pb2 as pb
from lepton.auth.v1.directory_service_pb2_grpc import DirectoryServiceStub
from lepton.auth.v1.principal_pb2 import ApiKey
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.names import ApiKeyName, ServiceAccountName


class ApiKeys(Group):
    """Creates and deletes API keys."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = DirectoryServiceStub(calls.channel("auth"))

    async def create(
        self,
        service_account: str,
        api_key_id: str,
        *,
        expires: datetime | None = None,
        permissions: Collection[str] = (),
        resource: str = "",
        request_id: str = "",
    ) -> ApiKey:
        """A new key; its `secret` is in this answer and nowhere else. It works for 90 days, or until `expires`.

        It is good for what its account may do, or only for `permissions`, or only on `resource`.
        """
        api_key = ApiKey(permissions=permissions, resource=resource)
        if expires is not None:
            api_key.expire_time.FromDatetime(expires)
        request = pb.CreateApiKeyRequest(
            parent=self._scope.name(ServiceAccountName, service_account),
            api_key_id=api_key_id,
            api_key=api_key,
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateApiKey, request)

    def list(self, service_account: str = "", *, prefix: str = "", page_size: int = 0) -> Listing[ApiKey]:
        """The keys of an account, or else of the project, whose secrets begin with a prefix."""
        account = self._scope.name(ServiceAccountName, service_account) if service_account else ""
        parent = account or self._scope.parent()

        async def page(token: str) -> Page[ApiKey]:
            request = pb.ListApiKeysRequest(parent=parent, prefix=prefix, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListApiKeys, request)
            return answer.api_keys, answer.next_page_token

        return Listing(page)

    async def delete(self, api_key: str) -> None:
        """Delete an API key, by its whole name."""
        request = pb.DeleteApiKeyRequest(name=str(ApiKeyName.parse(api_key)))
        await self._calls.unary(self._stub.DeleteApiKey, request)
