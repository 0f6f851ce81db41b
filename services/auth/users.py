"""Users: people who sign in with a password."""

from chassis.kv import DeletePrefix, Op, Put, mod
from lepton.auth.v1.directory_service_pb2 import CreateUserRequest, ListUsersRequest, SetPasswordRequest
from lepton.auth.v1.principal_pb2 import User
from lepton.internal.v1 import credentials_pb2
from lepton.names import UserName
from services.auth import layout
from services.auth.audit import Deed
from services.auth.passwords import Passwords
from services.auth.policy import Policy
from services.auth.revocations import Revocations
from services.auth.store import Store, resource_of, with_etag


class Users:
    """The people of the organisation and how their passwords are recognised."""

    def __init__(self, store: Store, passwords: Passwords, revocations: Revocations, policy: Policy) -> None:
        self._store = store
        self._passwords = passwords
        self._revocations = revocations
        self._policy = policy

    async def create(self, request: CreateUserRequest) -> User:
        """A new user with a first password."""
        name = UserName(request.user_id)
        password = Put(layout.password(name), (await self._record(request.password)).SerializeToString())
        user = User(display_name=request.user.display_name, disabled=request.user.disabled)
        return await self._store.create(request, user, name, layout.user(name), also=[password])

    async def get(self, name: UserName) -> User:
        """A user."""
        return await self._store.get(name, layout.user(name), User)

    async def page(self, request: ListUsersRequest) -> tuple[list[User], str]:
        """All users."""
        return await self._store.page(layout.USERS, request, User)

    async def set_password(self, request: SetPasswordRequest) -> User:
        """Replace a user's password; whoever is signed in as this user is so no longer."""
        name = UserName.parse(request.name)
        await self.get(name)  # before the password is hashed, which costs much
        record = await self._record(request.password)

        async def write() -> tuple[User, int] | None:
            entry = await self._store.entry(name, layout.user(name))
            user = resource_of(entry, User)
            user.update_time.FromDatetime(self._store.clock.now())
            user.ClearField("etag")
            ending = await self._revocations.of_user(name)
            done = await self._store.audit.commit(
                Deed(resource=request.name),
                [mod(entry.key, entry.mod_revision)],
                [
                    Put(entry.key, user.SerializeToString()),
                    Put(layout.password(name), record.SerializeToString()),
                    DeletePrefix(layout.sessions(name)),
                    *ending,
                ],
            )
            return (with_etag(user, done.revision), done.revision) if done.succeeded else None

        user, revision = await self._store.retry(write)
        await self._revocations.complete(name, revision)
        await self._policy.reached(revision)
        return user

    async def set_disabled(self, name: UserName, *, disabled: bool) -> User:
        """Let a user sign in, or no longer; who is disabled is signed out everywhere at once."""

        async def write() -> tuple[User, int] | None:
            entry = await self._store.entry(name, layout.user(name))
            user = resource_of(entry, User)
            user.disabled = disabled
            user.update_time.FromDatetime(self._store.clock.now())
            user.ClearField("etag")
            ending: list[Op] = []
            if disabled:
                mark = await self._revocations.of_principal(str(name), self._store.clock.now())
                ending = [mark, DeletePrefix(layout.sessions(name))]
            done = await self._store.audit.commit(
                Deed(resource=str(name)),
                [mod(entry.key, entry.mod_revision)],
                [Put(entry.key, user.SerializeToString()), *ending],
            )
            return (with_etag(user, done.revision), done.revision) if done.succeeded else None

        user, revision = await self._store.retry(write)
        if disabled:  # else nothing of the policy was written
            await self._policy.reached(revision)
        return user

    async def _record(self, password: str) -> credentials_pb2.PasswordRecord:
        record = credentials_pb2.PasswordRecord(hash=await self._passwords.hash(password))
        record.create_time.FromDatetime(self._store.clock.now())
        return record
