"""Who somebody is by the word of a provider, and what their groups give them from one sign-in to the next."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chassis.kv import KV, Entry, Put
from lepton.auth.v1 import access_service_pb2 as access
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1 import federation_service_pb2 as pb
from lepton.auth.v1 import session_service_pb2 as sessions
from lepton.auth.v1.principal_pb2 import ApiKey
from lepton.auth.v1.role_pb2 import Role
from lepton.auth.v1.user_identity_pb2 import UserIdentity
from lepton.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from services.auth import layout
from services.auth.oidc import federation as module
from services.auth.oidc.federation import Federation
from services.auth.oidc.settings import GroupGrant
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.memory_kv import MemoryKV
from tests.harness.oidc import Minter

pytestmark = pytest.mark.integration

# What rests on transactions is shown on both stores.
BOTH_STORES = pytest.mark.parametrize(
    "cluster", ["memory", pytest.param("etcd", marks=pytest.mark.integration)], indirect=True
)
PASSWORD = "correct horse battery"
DOMAIN: dict[str, Any] = {"match_email_domain": "example.com"}
ML = GroupGrant(group="ml", role="roles/developer", project="acme")
OPS = GroupGrant(group="ops", role="roles/operator")


def email(text: str, verified: Any = True) -> dict[str, Any]:
    return {"email": text, "email_verified": verified}


class Scene:
    """Auth with one provider that says whatever it is told to."""

    def __init__(self, auth: RunningAuth, minter: Minter) -> None:
        self.auth, self.minter = auth, minter
        self._number = 0

    async def sign_in(self, **claims: Any) -> sessions.Session:
        self._number += 1
        token = self.minter.token(**{"jti": str(self._number), **claims})
        credential = sessions.IdTokenCredential(id_token=token)
        session: sessions.Session = await (await self.auth.client()).sessions.SignIn(
            sessions.SignInRequest(id_token=credential)
        )
        return session

    async def refused(self, **claims: Any) -> None:
        with pytest.raises(Unauthenticated) as caught:
            await self.sign_in(**claims)
        assert caught.value.reason == "SIGN_IN_FAILED"

    async def user(self, name: str) -> None:
        admin = await self.auth.admin()
        await admin.directory.CreateUser(directory.CreateUserRequest(user_id=name, password=PASSWORD))

    async def link(self, user: str, subject: str) -> UserIdentity:
        admin = await self.auth.admin()
        wanted = UserIdentity(provider="corp", subject=subject)
        made: UserIdentity = await admin.federation.CreateUserIdentity(
            pb.CreateUserIdentityRequest(parent=f"users/{user}", user_identity=wanted)
        )
        return made

    async def project(self, name: str = "acme") -> None:
        await (await self.auth.admin()).directory.CreateProject(directory.CreateProjectRequest(project_id=name))

    async def roles(self, session: sessions.Session) -> set[tuple[str, str]]:
        caller = await (await self.auth.client(session.access_token)).sessions.GetCaller(sessions.GetCallerRequest())
        return {(each.role, each.scope) for each in caller.grants}


@asynccontextmanager
async def scene(kv: KV, folder: Path, minter: Minter, **settings: Any) -> AsyncIterator[Scene]:
    async with running_auth(kv, folder, oidc={"corp": minter.settings(**settings)}) as auth:
        yield Scene(auth, minter)


@BOTH_STORES
async def test_nobody_is_let_in_who_is_not_linked(kv: KV, tmp_path: Path, minter: Minter) -> None:
    async with scene(kv, tmp_path, minter) as here:
        await here.user("alice")
        await here.refused(sub="alice", **email("alice@example.com"), preferred_username="alice")
        made = await here.link("alice", "00u-1")
        assert made.issuer == minter.issuer
        session = await here.sign_in(sub="00u-1")
        assert session.principal == "users/alice"
        assert session.refresh_token
        refreshed = await (await here.auth.client()).sessions.RefreshSession(
            sessions.RefreshSessionRequest(refresh_token=session.refresh_token)
        )
        assert refreshed.principal == "users/alice"
        for taken in ("alice", "admin"):  # one person is one user
            with pytest.raises(AlreadyExists):
                await here.link(taken, "00u-1")


async def test_links_name_what_exists(tmp_path: Path, minter: Minter) -> None:
    async with MemoryKV() as kv, scene(kv, tmp_path, minter) as here:
        admin = await here.auth.admin()
        with pytest.raises(NotFound) as caught:
            await here.link("nobody", "00u-1")
        assert caught.value.reason == "USER_NOT_FOUND"
        with pytest.raises(InvalidArgument):
            await admin.federation.CreateUserIdentity(
                pb.CreateUserIdentityRequest(
                    parent="users/admin", user_identity=UserIdentity(provider="none", subject="x")
                )
            )


@BOTH_STORES
async def test_an_unlinked_person_is_out_at_once(kv: KV, tmp_path: Path, minter: Minter) -> None:
    async with scene(kv, tmp_path, minter, grants=(OPS,)) as here:
        await here.user("alice")
        identity = await here.link("alice", "00u-1")
        session = await here.sign_in(sub="00u-1", groups=["ops"])
        admin = await here.auth.admin()
        await admin.federation.DeleteUserIdentity(pb.DeleteUserIdentityRequest(name=identity.name))
        with pytest.raises(Unauthenticated) as caught:
            await here.roles(session)
        assert caught.value.reason == "TOKEN_REVOKED"
        await here.refused(sub="00u-1", groups=["ops"])
        listed = await admin.access.ListRoleBindings(access.ListRoleBindingsRequest())
        assert [each.name for each in listed.role_bindings] == ["roleBindings/bootstrap-admin"]


async def test_a_disabled_user_is_not_let_in(kv: KV, tmp_path: Path, minter: Minter) -> None:
    async with scene(kv, tmp_path, minter) as here:
        await here.user("alice")
        await here.link("alice", "00u-1")
        admin = await here.auth.admin()
        await admin.directory.DisableUser(directory.DisableUserRequest(name="users/alice"))
        await here.refused(sub="00u-1")
        await admin.directory.EnableUser(directory.EnableUserRequest(name="users/alice"))
        assert (await here.sign_in(sub="00u-1")).principal == "users/alice"


async def test_a_verified_address_links_once_and_then_the_subject_counts(
    kv: KV, tmp_path: Path, minter: Minter
) -> None:
    async with scene(kv, tmp_path, minter, **DOMAIN) as here:
        await here.user("alice")
        assert (await here.sign_in(sub="00u-1", **email("Alice@example.com"))).principal == "users/alice"
        assert (await here.sign_in(sub="00u-1", **email("renamed@example.com"))).principal == "users/alice"
        # The address was given to somebody else: another subject is another person.
        await here.refused(sub="00u-2", **email("alice@example.com"))


PROVES_NOTHING = (
    email("alice@example.com", verified=False), email("alice@example.com", verified="true"),
    email("alice@example.com", verified=1), {"email": "alice@example.com"}, email("alice@evil.test"),
    email("alice@example.com.evil.test"), email("alice@sub.example.com"), email("alice@evil.test@example.com"),
    email("alic\u0435@example.com"), email("admin@example.com"), email("@example.com"), email("alice"),
    email(["alice@example.com"]), {},
)  # fmt: skip


async def test_an_address_that_proves_nothing_links_nobody(tmp_path: Path, minter: Minter) -> None:
    async with MemoryKV() as kv, scene(kv, tmp_path, minter, **DOMAIN) as here:
        await here.user("alice")
        for claims in PROVES_NOTHING:
            await here.refused(sub="00u-9", **claims)


async def test_who_can_do_something_everywhere_is_linked_by_hand_only(tmp_path: Path, minter: Minter) -> None:
    async with MemoryKV() as kv, scene(kv, tmp_path, minter, **DOMAIN) as here:
        await here.user("olga")
        await (await here.auth.admin()).access.CreateRoleBinding(
            access.CreateRoleBindingRequest(
                role_binding_id="olga", role_binding={"role": "roles/operator", "members": ["users/olga"]}
            )
        )
        await here.refused(sub="00u-9", **email("olga@example.com"))
        await here.link("olga", "00u-9")
        assert (await here.sign_in(sub="00u-9")).principal == "users/olga"


async def test_without_the_look_at_the_verification_any_address_is_taken(
    tmp_path: Path, minter: Minter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "verified_email", lambda claims: claims["email"])
    async with MemoryKV() as kv, scene(kv, tmp_path, minter, **DOMAIN) as here:
        await here.user("alice")
        session = await here.sign_in(sub="00u-9", **email("alice@example.com", verified=False))
        assert session.principal == "users/alice"


@BOTH_STORES
async def test_of_two_people_with_one_address_one_is_linked(kv: KV, tmp_path: Path, minter: Minter) -> None:
    async with scene(kv, tmp_path, minter, **DOMAIN) as here:
        await here.user("alice")
        answers = await asyncio.gather(
            *(here.sign_in(sub=f"00u-{number}", **email("alice@example.com")) for number in range(4)),
            return_exceptions=True,
        )
        assert sum(isinstance(each, sessions.Session) for each in answers) == 1


async def test_a_new_user_is_made_under_a_name_that_is_nobody_elses(kv: KV, tmp_path: Path, minter: Minter) -> None:
    async with scene(kv, tmp_path, minter, create_users=True, **DOMAIN) as here:
        await here.user("bob")
        await here.link("bob", "00u-bob")
        # Whoever calls themselves so: a suffix. Whose address the provider verified in its domain: their own name.
        names = [
            (await here.sign_in(sub="00u-1", preferred_username="bob", name="B\x1b[31mob")).principal,
            (await here.sign_in(sub="00u-2", preferred_username="Ad Min!")).principal,
            (await here.sign_in(sub="00u-3", preferred_username="\u0431")).principal,
            (await here.sign_in(sub="00u-4", **email("bob@example.com"))).principal,
            (await here.sign_in(sub="00u-5", **email("admin@example.com"))).principal,
            (await here.sign_in(sub="00u-6", **email("carol@example.com"))).principal,
        ]
        shown = [name.removeprefix("users/").rpartition("-")[0] for name in names]
        assert shown == ["bob", "ad-min", "u", "bob", "admin", ""]
        assert names[-1] == "users/carol"
        assert len(set(names)) == 6
        assert (await here.sign_in(sub="00u-1")).principal == names[0]
        shown_name = await (await here.auth.admin()).directory.GetUser(directory.GetUserRequest(name=names[0]))
        assert shown_name.display_name == "B[31mob"
        stubs = await here.auth.client()
        with pytest.raises(Unauthenticated):  # no password was made
            await stubs.sessions.SignIn(
                sessions.SignInRequest(password=sessions.PasswordCredential(user=names[0], password=PASSWORD))
            )


@BOTH_STORES
async def test_groups_give_roles_and_the_next_sign_in_takes_them_away(kv: KV, tmp_path: Path, minter: Minter) -> None:
    async with scene(kv, tmp_path, minter, create_users=True, grants=(ML, OPS)) as here:
        await here.project()
        both = await here.sign_in(groups=["ml", "ops", "strangers"])
        assert await here.roles(both) == {("roles/developer", "projects/acme"), ("roles/operator", "*")}
        one = await here.sign_in(groups="ml")
        assert await here.roles(one) == {("roles/developer", "projects/acme")}
        assert await here.roles(both) == {("roles/developer", "projects/acme")}  # everywhere, at once
        before = here.auth.app.access.revision
        await here.sign_in(groups=["ml"])
        assert here.auth.app.access.revision == before  # nothing changed, nobody is told
        none = await here.sign_in()
        assert await here.roles(none) == set()


async def test_roles_that_an_administrator_gave_stay(kv: KV, tmp_path: Path, minter: Minter) -> None:
    async with scene(kv, tmp_path, minter, create_users=True, grants=(ML,)) as here:
        await here.project()
        principal = (await here.sign_in(groups=["ml"])).principal
        admin = await here.auth.admin()
        await admin.access.CreateRoleBinding(
            access.CreateRoleBindingRequest(
                parent="projects/acme",
                role_binding_id="b",
                role_binding={"role": "roles/viewer", "members": [principal]},
            )
        )
        assert await here.roles(await here.sign_in()) == {("roles/viewer", "projects/acme")}


@BOTH_STORES
async def test_groups_give_custom_roles_and_only_what_is_there(kv: KV, tmp_path: Path, minter: Minter) -> None:
    grants = (
        GroupGrant(group="ml", role="roles/labeller", project="acme"),
        GroupGrant(group="ml", role="roles/absent", project="acme"),
        GroupGrant(group="ml", role="roles/viewer", project="absent"),
    )
    async with scene(kv, tmp_path, minter, create_users=True, grants=grants) as here:
        await here.project()
        admin = await here.auth.admin()
        await admin.access.CreateRole(access.CreateRoleRequest(role_id="labeller", role=Role(permissions=["jobs.get"])))
        session = await here.sign_in(groups=["ml"])
        assert await here.roles(session) == {("roles/labeller", "projects/acme")}


async def _kept_token(here: Scene) -> set[tuple[str, str]]:
    """A token of when somebody was in a group, used after they had left it."""
    await here.project()
    now = int(time.time())
    await here.sign_in(groups=["ml"], iat=now - 120)
    kept = {"groups": ["ml"], "iat": now - 60}
    await here.sign_in(groups=[], iat=now)
    return await here.roles(await here.sign_in(**kept))


async def test_a_token_that_was_kept_brings_no_role_back(kv: KV, tmp_path: Path, minter: Minter) -> None:
    async with scene(kv, tmp_path, minter, create_users=True, grants=(ML,)) as here:
        assert await _kept_token(here) == set()


async def test_without_the_time_of_groups_a_kept_token_would(
    tmp_path: Path, minter: Minter, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Federation._sync

    async def forgetful(self: Federation, verified: Any, key: str, held: frozenset[str]) -> Any:
        entry = await self._store.kv.get(key)
        assert entry is not None
        record = module.FederatedIdentityRecord.FromString(entry.value)
        record.ClearField("groups_time")
        await self._store.kv.txn([], [Put(key, record.SerializeToString())])
        return await real(self, verified, key, held)

    monkeypatch.setattr(Federation, "_sync", forgetful)
    async with MemoryKV() as kv, scene(kv, tmp_path, minter, create_users=True, grants=(ML,)) as here:
        assert await _kept_token(here) == {("roles/developer", "projects/acme")}


async def test_groups_of_the_wrong_kind_let_nobody_in(tmp_path: Path, minter: Minter) -> None:
    async with MemoryKV() as kv, scene(kv, tmp_path, minter, create_users=True, grants=(ML,)) as here:
        for groups in (7, {"ml": True}, ["ml", 7], [["ml"]]):
            await here.refused(groups=groups)


async def test_a_session_of_a_provider_is_shorter(tmp_path: Path, minter: Minter) -> None:
    async with MemoryKV() as kv, scene(kv, tmp_path, minter, create_users=True, session_s=600) as here:
        session = await here.sign_in()
        left_s = session.refresh_expire_time.seconds - time.time()
        assert 300 < left_s <= 601


async def test_only_administrators_of_the_organisation_link(tmp_path: Path, minter: Minter) -> None:
    async with MemoryKV() as kv, scene(kv, tmp_path, minter, create_users=True) as here:
        await here.project()
        stranger = await here.auth.client((await here.sign_in()).access_token)
        request = pb.CreateUserIdentityRequest(
            parent="users/admin", user_identity=UserIdentity(provider="corp", subject="mine")
        )
        with pytest.raises(PermissionDenied):
            await stranger.federation.CreateUserIdentity(request)
        admin = await here.auth.admin()
        account = await admin.directory.CreateServiceAccount(
            directory.CreateServiceAccountRequest(parent="projects/acme", service_account_id="robot")
        )
        await admin.access.CreateRoleBinding(
            access.CreateRoleBindingRequest(
                role_binding_id="robot", role_binding={"role": "roles/admin", "members": [account.name]}
            )
        )
        key = await admin.directory.CreateApiKey(
            directory.CreateApiKeyRequest(
                parent=account.name, api_key_id="k", api_key=ApiKey(permissions=["userIdentities.*"])
            )
        )
        limited = await here.auth.client(
            (await (await here.auth.client()).sessions.SignIn(sessions.SignInRequest(api_key=key.secret))).access_token
        )
        with pytest.raises(PermissionDenied) as caught:
            await limited.federation.CreateUserIdentity(request)
        assert caught.value.reason == "LIMITED_TOKEN"


async def test_why_a_token_was_refused_is_in_the_audit_log_and_not_the_token(tmp_path: Path, minter: Minter) -> None:
    async with MemoryKV() as kv, scene(kv, tmp_path, minter) as here:
        await here.refused(aud="another")
        blocks: list[Entry] = list((await kv.list(layout.AUDIT_BLOCKS, limit=100)).entries)
        text = b"".join(each.value for each in blocks)
        assert b"the audience is another client" in text
        assert minter.token(aud="another").split(".")[0].encode() not in text
