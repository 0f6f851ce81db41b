"""Programs without keys: which ID tokens sign in as which service account, and which never."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from lepton.auth.v1 import access_service_pb2 as access
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1 import federation_service_pb2 as pb
from lepton.auth.v1 import session_service_pb2 as sessions
from lepton.auth.v1.workload_trust_pb2 import WorkloadTrust
from lepton.client import AsyncClient
from lepton.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from lepton.profile import Profile
from services.auth.oidc import trusts
from services.auth.oidc.trusts import matches_subject
from tests.auth.test_directory import user
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.memory_kv import MemoryKV
from tests.harness.oidc import Minter

pytestmark = pytest.mark.integration

AUDIENCE = "lepton-ci"
POD = "system:serviceaccount:ci:deployer"
ROBOT = "projects/acme/serviceAccounts/robot"


@pytest.fixture
def cluster(tmp_path: Path) -> Minter:
    """A cluster that vouches for its pods."""
    return Minter(tmp_path, "https://cluster.test")


@pytest_asyncio.fixture
async def auth(tmp_path: Path, minter: Minter, cluster: Minter) -> AsyncIterator[RunningAuth]:
    oidc = {
        "corp": minter.settings(create_users=True),
        "cluster": cluster.settings(
            client_id="", workload_audiences=(AUDIENCE,), workload_subjects=("system:serviceaccount:",)
        ),
    }
    async with MemoryKV() as kv, running_auth(kv, tmp_path, oidc=oidc) as running:
        admin = await running.admin()
        for project in ("acme", "other"):
            await admin.directory.CreateProject(directory.CreateProjectRequest(project_id=project))
            await admin.directory.CreateServiceAccount(
                directory.CreateServiceAccountRequest(parent=f"projects/{project}", service_account_id="robot")
            )
        yield running


async def trust(auth: RunningAuth, cluster: Minter, *, parent: str = ROBOT, name: str = "ci", **changes: Any) -> Any:
    wanted = {"issuer": cluster.issuer, "subject": POD, "audience": AUDIENCE, **changes}
    return await (await auth.admin()).federation.CreateWorkloadTrust(
        pb.CreateWorkloadTrustRequest(parent=parent, workload_trust_id=name, workload_trust=WorkloadTrust(**wanted))
    )


async def sign_in(auth: RunningAuth, token: str, account: str = ROBOT) -> sessions.Session:
    credential = sessions.WorkloadCredential(service_account=account, id_token=token)
    session: sessions.Session = await (await auth.client()).sessions.SignIn(sessions.SignInRequest(workload=credential))
    return session


async def refused(auth: RunningAuth, token: str, account: str = ROBOT) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await sign_in(auth, token, account)
    assert caught.value.reason == "SIGN_IN_FAILED"


def pod(cluster: Minter, **changes: Any) -> str:
    return cluster.token(**{"aud": [AUDIENCE], "sub": POD, **changes})


async def test_a_pod_signs_in_again_and_again(auth: RunningAuth, cluster: Minter) -> None:
    token = pod(cluster)
    await refused(auth, token)
    await trust(auth, cluster)
    for _ in range(3):
        session = await sign_in(auth, token)
        assert session.principal == ROBOT
        assert session.refresh_token == ""
    caller = await (await auth.client(session.access_token)).sessions.GetCaller(sessions.GetCallerRequest())
    assert caller.principal == ROBOT


async def test_what_does_not_match_is_refused(auth: RunningAuth, cluster: Minter, minter: Minter) -> None:
    await trust(auth, cluster)
    await refused(auth, pod(cluster, sub="system:serviceaccount:ci:other"))
    await refused(auth, pod(cluster, sub=POD + ":more"))
    await refused(auth, pod(cluster, aud=["another"]))
    await refused(auth, pod(cluster, aud=[AUDIENCE, "another"]))
    await refused(auth, pod(cluster, aud=None))
    await refused(auth, pod(cluster, exp=1))
    await refused(auth, pod(minter))  # another issuer says the same
    await refused(auth, pod(cluster, iss=minter.issuer))
    await refused(auth, pod(cluster, key=minter.key))
    await refused(auth, pod(cluster), "projects/other/serviceAccounts/robot")
    await refused(auth, pod(cluster), "projects/acme/serviceAccounts/absent")
    assert (await sign_in(auth, pod(cluster))).principal == ROBOT  # the control


async def test_without_the_check_a_stranger_is_taken(
    auth: RunningAuth, cluster: Minter, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers = {
        "for_workload": {"aud": ["another"]},
        "matches_subject": {"sub": "system:serviceaccount:ci:other"},
        "_is_allowed": {"sub": "user:mallory"},
    }
    await trust(auth, cluster)
    for check, claims in strangers.items():
        token = pod(cluster, **claims)
        await refused(auth, token)
        with monkeypatch.context() as without:
            without.setattr(trusts, check, lambda *_: True)
            if check == "_is_allowed":  # the trust's own pattern would notice too
                without.setattr(trusts, "matches_subject", lambda *_: True)
            assert (await sign_in(auth, token)).principal == ROBOT


async def test_tokens_of_people_and_of_programs_are_never_each_others(
    auth: RunningAuth, cluster: Minter, minter: Minter
) -> None:
    await trust(auth, cluster)
    with pytest.raises(Unauthenticated):  # the cluster is no provider for people
        await (await auth.client()).sessions.SignIn(
            sessions.SignInRequest(id_token=sessions.IdTokenCredential(id_token=pod(cluster)))
        )
    with pytest.raises(InvalidArgument):  # people's provider vouches for no programs
        await trust(auth, minter, name="people", audience="lepton-cli")


async def test_a_trust_that_is_taken_away_signs_nobody_in(auth: RunningAuth, cluster: Minter) -> None:
    made = await trust(auth, cluster)
    await sign_in(auth, pod(cluster))
    admin = await auth.admin()
    await admin.federation.DeleteWorkloadTrust(pb.DeleteWorkloadTrustRequest(name=made.name))
    await refused(auth, pod(cluster))
    with pytest.raises(NotFound):
        await admin.federation.DeleteWorkloadTrust(pb.DeleteWorkloadTrustRequest(name=made.name))


async def test_a_deleted_project_takes_its_trusts_with_it(auth: RunningAuth, cluster: Minter) -> None:
    await trust(auth, cluster)
    await (await auth.admin()).directory.DeleteProject(directory.DeleteProjectRequest(name="projects/acme"))
    await refused(auth, pod(cluster))
    assert (await auth.kv.list("/lepton/auth/workloadTrusts/")).entries == ()


TOO_MUCH = (
    ({"issuer": "https://attacker.test"}, "issuer"), ({"issuer": "https://cluster.test/"}, "issuer"),
    ({"audience": "another"}, "audience"), ({"subject": "*"}, "subject"), ({"subject": "**"}, "subject"),
    ({"subject": "system:*"}, "subject"), ({"subject": "system:serviceaccount*"}, "subject"),
    ({"subject": "user:mallory"}, "subject"), ({"subject": "system:serviceaccount:**:x"}, "subject"),
    ({"subject": "system:serviceaccount:ci:a b"}, "subject"), ({"subject": "sys*tem:serviceaccount:ci"}, "subject"),
)  # fmt: skip


async def test_a_trust_in_more_than_is_meant_is_refused(auth: RunningAuth, cluster: Minter) -> None:
    for changes, field in TOO_MUCH:
        with pytest.raises(InvalidArgument) as caught:
            await trust(auth, cluster, **changes)
        assert f"workload_trust.{field}" in str(caught.value.fields), changes


async def test_an_account_may_have_many_trusts(
    auth: RunningAuth, cluster: Minter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trusts, "_AT_ONCE", 2)
    for number in range(5):
        await trust(auth, cluster, name=f"t{number}", subject=f"system:serviceaccount:ci:pod-{number}")
    assert (await sign_in(auth, pod(cluster, sub="system:serviceaccount:ci:pod-4"))).principal == ROBOT
    await refused(auth, pod(cluster, sub="system:serviceaccount:ci:pod-5"))
    listed = await (await auth.admin()).federation.ListWorkloadTrusts(pb.ListWorkloadTrustsRequest(parent=ROBOT))
    assert [each.name.rpartition("/")[2] for each in listed.workload_trusts] == ["t0", "t1", "t2", "t3", "t4"]


def test_patterns_of_subjects() -> None:
    for pattern, subject, matches in (
        ("repo:acme/vision:ref:refs/heads/main", "repo:acme/vision:ref:refs/heads/main", True),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/vision:ref:refs/heads/main", True),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/vision:x:ref:refs/heads/main", False),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/a/b:ref:refs/heads/main", False),
        ("repo:acme/vision:**", "repo:acme/vision:ref:refs/heads/a/b", True),
        ("repo:acme/vision:**", "repo:acme/vision-fork:ref:refs/heads/a", False),
        ("repo:acme/v.sion:x", "repo:acme/vision:x", False),
        ("repo:acme/vision:x", "repo:acme/vision:x\n", False),
        ("system:serviceaccount:ci:*", "system:serviceaccount:ci:", True),
    ):
        assert matches_subject(pattern, subject) is matches, (pattern, subject)


async def test_only_the_projects_administrators_make_trusts(auth: RunningAuth, cluster: Minter) -> None:
    developer = await user(auth, "dev", "roles/developer", "acme")
    request = pb.CreateWorkloadTrustRequest(
        parent=ROBOT,
        workload_trust_id="mine",
        workload_trust=WorkloadTrust(issuer=cluster.issuer, subject=POD, audience=AUDIENCE),
    )
    with pytest.raises(PermissionDenied):
        await developer.federation.CreateWorkloadTrust(request)
    stranger = await user(auth, "eve", "roles/admin", "other")
    for call in (
        stranger.federation.CreateWorkloadTrust(request),
        stranger.federation.ListWorkloadTrusts(pb.ListWorkloadTrustsRequest(parent=ROBOT)),
        stranger.federation.DeleteWorkloadTrust(pb.DeleteWorkloadTrustRequest(name=f"{ROBOT}/workloadTrusts/ci")),
    ):
        with pytest.raises(NotFound):
            await call


async def test_a_client_reads_the_file_anew(auth: RunningAuth, cluster: Minter, tmp_path: Path) -> None:
    """What a pod does: the cluster replaces the file, the client signs in with what is there then."""
    await trust(auth, cluster)
    await (await auth.admin()).access.CreateRoleBinding(
        access.CreateRoleBindingRequest(
            parent="projects/acme", role_binding_id="r", role_binding={"role": "roles/viewer", "members": [ROBOT]}
        )
    )
    file = tmp_path / "token"
    file.write_text(pod(cluster))
    here = f"127.0.0.1:{auth.ports()['client']}"
    nowhere = dict.fromkeys(("scheduler", "trainer", "inference", "gateway"), "127.0.0.1:1")
    profile = Profile(auth=here, **nowhere, trust_bundle=tmp_path / "ca.pem", project="acme", folder=tmp_path)
    async with AsyncClient(profile, service_account=ROBOT, id_token_file=str(file)) as client:
        assert (await client.caller()).principal == ROBOT
        first = client.access_token
        file.write_text(pod(cluster, jti="second"))
        await client._calls.signed_in.renew(first)
        assert client.access_token not in ("", first)
    assert not (tmp_path / "credentials.json").exists()  # nothing was kept
