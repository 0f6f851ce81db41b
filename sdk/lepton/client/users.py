"""`client.users`: people."""

from lepton.auth.v1 import directory_service_pb2 as pb
from lepton.auth.v1.directory_service_pb2_grpc import DirectoryServiceStub
from lepton.auth.v1.principal_pb2 import User
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.names import UserName


class Users(Group):
    """Creates, reads and lists users."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = DirectoryServiceStub(calls.channel("auth"))

    async def create(self, user_id: str, password: str, *, display_name: str = "", request_id: str = "") -> User:
        """A new user with a first password of 12 bytes or more. AlreadyExists."""
        request = pb.CreateUserRequest(
            user_id=user_id,
            user=User(display_name=display_name),
            password=password,
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateUser, request)

    async def get(self, user: str) -> User:
        """A user by id or name."""
        return await self._calls.unary(self._stub.GetUser, pb.GetUserRequest(name=_name(user)))

    def list(self, *, page_size: int = 0) -> Listing[User]:
        """All users."""

        async def page(token: str) -> Page[User]:
            request = pb.ListUsersRequest(page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListUsers, request)
            return answer.users, answer.next_page_token

        return Listing(page)

    async def set_password(self, user: str, password: str) -> User:
        """Another password; all the user's sessions end."""
        request = pb.SetPasswordRequest(name=_name(user), password=password)
        return await self._calls.unary(self._stub.SetPassword, request)

    async def set_disabled(self, user: str, *, disabled: bool) -> User:
        """Sign a user out everywhere and let them sign in no more; or let them again."""
        if disabled:
            return await self._calls.unary(self._stub.DisableUser, pb.DisableUserRequest(name=_name(user)))
        return await self._calls.unary(self._stub.EnableUser, pb.EnableUserRequest(name=_name(user)))


def _name(user: str) -> str:
    return str(UserName.parse(user) if "/" in user else UserName(user))
