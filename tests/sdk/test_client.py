"""AsyncClient against servers in this process: resources, pages, retries, sessions."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from lepton.client import AsyncClient, Credentials, FileCredentials, MemoryCredentials
from lepton.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from lepton.scheduler.v1.node_pb2 import Node
from lepton.trainer.v1.job_pb2 import Job, Recipe, Workers
from tests.harness.small_lepton import CHUNK, PASSWORD, SmallLepton
from tests.harness.wait import until

JOB = Job(recipe=Recipe(name="image_classifier"), workers=Workers(count=2))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        yield serving


@pytest.fixture
async def client(world: SmallLepton) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(world.profile, user="admin", password=PASSWORD, patience_s=10) as signed_in:
        yield signed_in


async def test_resources_are_created_and_read(client: AsyncClient) -> None:
    assert (await client.projects.create("acme", display_name="Acme")).name == "projects/acme"
    assert (await client.projects.get()).display_name == "Acme"
    assert (await client.users.create("bob", PASSWORD)).name == "users/bob"
    account = await client.service_accounts.create("robot")
    assert account.name == "projects/acme/serviceAccounts/robot"
    assert (await client.api_keys.create("robot", "first")).secret == "lpk_good"
    binding = await client.role_bindings.create("robots", "developer", [account.name])
    assert binding.name == "projects/acme/roleBindings/robots"
    everywhere = await client.role_bindings.create("admins", "roles/admin", ["users/bob"], project="*")
    assert everywhere.name == "roleBindings/admins"
    assert (await client.pools.create("general")).name == "pools/general"
    assert (await client.join_tokens.create("agent/n1")).token == "lpj_once"
    assert await client.role_bindings.permissions("", ["jobs.get", "jobs.create"]) == {"jobs.get"}


async def test_ids_and_whole_names_mean_the_same(client: AsyncClient) -> None:
    await client.jobs.create("digits", JOB)
    await client.jobs.create("digits", JOB, project="other")
    assert (await client.jobs.get("digits")).name == "projects/acme/jobs/digits"
    assert (await client.jobs.get("projects/other/jobs/digits")).name == "projects/other/jobs/digits"
    client.project = "other"
    assert (await client.jobs.get("digits")).name == "projects/other/jobs/digits"


async def test_without_a_project_an_id_means_nothing(world: SmallLepton) -> None:
    profile = world.profile.with_project("")
    async with AsyncClient(profile, user="admin", password=PASSWORD) as client:
        with pytest.raises(FailedPrecondition, match="PROJECT_MISSING"):
            await client.jobs.get("digits")


async def test_lists_fetch_all_pages(client: AsyncClient, world: SmallLepton) -> None:
    for number in range(5):
        await client.jobs.create(f"job-{number}", JOB)
    listing = client.jobs.list()
    assert [job.name[-1] async for job in listing] == list("01234")
    assert [job.name[-1] for job in await listing.all()] == list("01234")
    assert world.count("ListJobs") == 6


async def test_a_create_is_repeated_with_the_same_request_id(client: AsyncClient, world: SmallLepton) -> None:
    world.fail("CreateJob", Unavailable("STORE_UNAVAILABLE"))
    world.fail("CreateJob", Unavailable("OUTCOME_UNKNOWN"), after=True)
    job = await client.jobs.create("digits", JOB)
    ids = {request.request_id for request in world.requests("CreateJob")}
    assert (job.state, world.count("CreateJob"), len(ids)) == (Job.PENDING, 3, 1)
    with pytest.raises(AlreadyExists, match="JOB_ALREADY_EXISTS"):
        await client.jobs.create("digits", JOB)


async def test_a_conflict_within_the_server_and_a_rate_limit_pass(client: AsyncClient, world: SmallLepton) -> None:
    world.fail("CreateJob", Aborted("WRITE_CONFLICT"))
    world.fail("CreateJob", ResourceExhausted("RATE_LIMITED", retry_after_s=0.1))
    assert (await client.jobs.create("digits", JOB)).name == "projects/acme/jobs/digits"


async def test_other_errors_are_raised_at_once(client: AsyncClient, world: SmallLepton) -> None:
    world.fail("SetModelAlias", Aborted("ETAG_MISMATCH"), times=2)
    with pytest.raises(Aborted):
        await client.models.set_alias("digits", "champion", 1)
    assert world.count("SetModelAlias") == 1


async def test_patience_ends(world: SmallLepton) -> None:
    heard: list[str] = []
    async with AsyncClient(
        world.profile, api_key="lpk_good", patience_s=0.4, on_retry=lambda error: heard.append(error.reason)
    ) as client:
        await client.caller()
        await world.kill("trainer")
        with pytest.raises(Unavailable):
            await client.jobs.get("digits")
    assert heard
    assert set(heard) == {"UNREACHABLE"}


async def test_a_call_outlives_a_killed_service(client: AsyncClient, world: SmallLepton) -> None:
    await client.jobs.create("digits", JOB)
    await world.kill("trainer")
    reading = asyncio.create_task(client.jobs.get("digits"))
    await asyncio.sleep(0)
    await world.restart("trainer")
    assert (await reading).name == "projects/acme/jobs/digits"


async def test_an_access_token_is_refreshed_before_it_expires(world: SmallLepton) -> None:
    store = MemoryCredentials()
    async with AsyncClient(world.profile, credentials=store) as client:
        await client.sign_in(user="admin", password=PASSWORD)
        first = client.access_token
        client._calls.signed_in._now = lambda: time.time() + 0.9 * world.token_lives_s
        await asyncio.gather(*(client.caller() for _ in range(8)))
        assert world.count("RefreshSession") == 1
        assert client.access_token != first
    assert world.count("SignIn") == 1
    assert store.load().access_token == client.access_token


async def test_a_refused_token_is_exchanged_once(client: AsyncClient, world: SmallLepton) -> None:
    await client.caller()
    world.tokens.clear()  # as after a change of the signing key
    assert (await client.caller()).principal == "users/admin"
    world.fail("GetCaller", Unauthenticated("TOKEN_REVOKED"), times=2)
    with pytest.raises(Unauthenticated, match="TOKEN_REVOKED"):
        await client.caller()


async def test_a_refused_refresh_token_leads_to_the_password(client: AsyncClient, world: SmallLepton) -> None:
    await client.caller()
    world.tokens.clear()
    world.refresh_tokens.clear()
    assert (await client.caller()).principal == "users/admin"
    assert world.count("SignIn") == 2


async def test_an_api_key_signs_in_again(world: SmallLepton) -> None:
    async with AsyncClient(world.profile, api_key="lpk_good") as client:
        assert (await client.caller()).principal == "projects/acme/serviceAccounts/robot"
        world.tokens.clear()
        assert (await client.caller()).principal == "projects/acme/serviceAccounts/robot"
    assert world.count("RefreshSession") == 0


async def test_nobody_is_signed_in(world: SmallLepton) -> None:
    async with AsyncClient(world.profile) as client:
        with pytest.raises(Unauthenticated, match="NOT_SIGNED_IN"):
            await client.caller()
        with pytest.raises(Unauthenticated, match="SIGN_IN_FAILED"):
            await client.sign_in(user="admin", password="wrong")


async def test_sign_in_outlives_a_killed_auth(world: SmallLepton) -> None:
    async with AsyncClient(world.profile, patience_s=10) as client:
        await world.kill("auth")
        signing_in = asyncio.create_task(client.sign_in(user="admin", password=PASSWORD))
        await asyncio.sleep(0)
        await world.restart("auth")
        assert (await signing_in).principal == "users/admin"


async def test_a_caller_that_gives_up_does_not_lose_the_refreshed_session(world: SmallLepton) -> None:
    async with AsyncClient(world.profile) as client:
        await client.sign_in(user="admin", password=PASSWORD)
        world.tokens.clear()
        asking = asyncio.create_task(client.caller())
        await until(lambda: world.count("RefreshSession"))
        asking.cancel()
        assert (await client.caller()).principal == "users/admin"
    assert world.count("RefreshSession") == 1


async def test_credentials_are_shared_through_a_private_file(world: SmallLepton, tmp_path: Path) -> None:
    async with AsyncClient(world.profile) as first:
        signed_in = await first.sign_in(user="admin", password=PASSWORD)
        assert PASSWORD not in repr(signed_in)
        assert signed_in.access_token not in repr(signed_in)
    file = tmp_path / "credentials.json"
    assert file.stat().st_mode & 0o777 == 0o600
    world.tokens.clear()
    # Two processes whose token is refused at the same time: one refreshes, the other takes what it got.
    async with AsyncClient(world.profile) as one, AsyncClient(world.profile) as other:
        await asyncio.gather(one.caller(), other.caller())
    assert world.count("RefreshSession") == 1
    async with AsyncClient(world.profile) as last:
        await last.sign_out()
    assert FileCredentials(file).load() == Credentials()


async def test_a_damaged_credentials_file_is_nobody(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text("{")
    assert FileCredentials(tmp_path / "credentials.json").load() == Credentials()


async def test_permission_denied_is_the_servers_word(world: SmallLepton) -> None:
    async with AsyncClient(world.profile, user="alice", password=PASSWORD) as client:
        with pytest.raises(PermissionDenied) as refused:
            await client.users.create("eve", PASSWORD)
    assert refused.value.metadata["permission"] == "users.create"
    assert refused.value.domain == "auth.lepton"


async def test_artifacts_go_up_in_chunks_and_come_back_verified(
    client: AsyncClient, world: SmallLepton, tmp_path: Path
) -> None:
    data = np.random.default_rng(0).bytes((2 << 20) + 7)
    artifact = await client.artifacts.upload(data)
    assert artifact.size_bytes == len(data)
    (tmp_path / "data").write_bytes(data)
    assert await client.artifacts.upload(tmp_path / "data") == artifact
    assert world.count("UploadArtifact") == 1
    world.fail("DownloadArtifact", Unavailable("DRAINING"), after=True, times=3)
    assert await client.artifacts.download(artifact.digest) == data
    assert [request.offset for request in world.requests("DownloadArtifact")] == [0, CHUNK, 2 * CHUNK, 3 * CHUNK]
    await client.artifacts.download_to(artifact.name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    world.artifacts[artifact.name] = b"damaged"
    with pytest.raises(FailedPrecondition, match="ARTIFACT_CORRUPT"):
        await client.artifacts.download_to(artifact.name, tmp_path / "other")
    assert not list(tmp_path.glob(".downloading-*")) + list(tmp_path.glob("other"))  # noqa: ASYNC240


async def test_an_upload_is_sent_again_from_the_start(client: AsyncClient, world: SmallLepton) -> None:
    world.fail("UploadArtifact", Unavailable("STORE_UNAVAILABLE"), after=True)
    artifact = await client.artifacts.upload(b"x" * (3 << 20))
    assert world.artifacts[artifact.name] == b"x" * (3 << 20)
    with pytest.raises(NotFound, match="ARTIFACT_NOT_FOUND"):
        await client.artifacts.get("sha256:" + "0" * 64)


async def test_a_package_is_registered_and_deployed(client: AsyncClient, world: SmallLepton) -> None:
    package = "sha256:" + "1" * 64
    assert (await client.models.register("digits", package)).name == "projects/acme/models/digits/versions/1"
    assert (await client.models.register("digits", package)).name == "projects/acme/models/digits/versions/2"
    await client.models.set_alias("digits", "champion", 1)
    version = await client.models.get_version("digits", "champion")
    deployment = await client.deployments.create("digits", version.name, replicas=2, pools=["general"])
    assert list(deployment.pools) == ["pools/general"]
    assert (await client.deployments.scale("digits", 3)).replicas == 3
    assert len(await client.models.versions("digits").all()) == 2


async def test_predictions_are_cut_into_pieces_and_joined(client: AsyncClient, world: SmallLepton) -> None:
    rows = np.arange(33).reshape(11, 3)
    answers = await client.predict("digits", rows)
    assert np.array_equal(answers["sum"], rows.sum(axis=1).astype(np.float32))
    assert {request.model_name for request in world.requests("ModelInfer")} == {"acme.digits"}
    assert world.count("ModelInfer") == 3
    assert np.array_equal((await client.predict("acme.digits", {"x": rows[:2]}))["sum"], [3.0, 12.0])


async def test_a_prediction_with_a_token_older_than_the_grant_gets_another(
    client: AsyncClient, world: SmallLepton
) -> None:
    await client.caller()
    world.fail("ModelMetadata", PermissionDenied("PERMISSION_DENIED"))
    assert (await client.predict("digits", np.ones((1, 3))))["sum"] == [3.0]
    assert world.count("RefreshSession") == 1


async def test_nodes_are_awaited(client: AsyncClient, world: SmallLepton) -> None:
    world.table(Node).put(Node(name="pools/general/nodes/n1", state=Node.READY))
    waiting = asyncio.create_task(client.nodes.wait(2, timeout_s=10))
    await until(lambda: world.count("WatchNodes"))
    world.table(Node).put(Node(name="pools/fast/nodes/n2", state=Node.READY))
    assert set(await waiting) == {"pools/general/nodes/n1", "pools/fast/nodes/n2"}
    with pytest.raises(DeadlineExceeded, match="WAIT_TIMED_OUT"):
        await client.nodes.wait(3, timeout_s=0.1)
