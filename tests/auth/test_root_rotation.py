"""Replacing the mesh's root: published, signing, forgotten; nobody restarts, and no call fails."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from bench.echo import Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis.access import PolicyReplica, PolicySnapshot
from chassis.clock import SystemClock
from chassis.credentials import signing_request
from chassis.identity import Identity
from chassis.issuer import AuthIssuer
from chassis.kv import KV
from chassis.peers import Peers
from chassis.rpc_metrics import RpcMetrics
from chassis.server import Listener, Server
from chassis.stack import stack
from lepton.auth.v1 import identity_service_pb2 as pb
from lepton.errors import FailedPrecondition, InvalidArgument, LeptonError, Unauthenticated, Unavailable
from services.auth.audit import HEAD_KEY, AuditTrail
from services.auth.authorities import Authorities
from services.auth.authority_record import load_roots, roots_put
from services.auth.bootstrap import init
from services.auth.ca import Authority, SigningRequest
from services.auth.kek import Kek
from services.auth.roots import Roots, states
from tests.harness.auth import RunningAuth, Stubs, auth_config, running_auth
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until

HOUR = 3600
State = pb.RootAuthority.State
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_what_each_root_does_follows_from_the_time() -> None:
    clock = ManualClock(NOW)
    first, second = Authority.create(clock), Authority.create(clock)
    hour = timedelta(hours=1)
    roots = Roots(first=first, next=second, sign_time=NOW + hour, trust_end=NOW + 2 * hour)
    told = {hours: states(roots, NOW + timedelta(hours=hours)) for hours in (0, 0.99, 1, 1.99, 2, 999)}
    assert told[0] == told[0.99] == [(first, "SIGNING"), (second, "PUBLISHED")]
    assert told[1] == told[1.99] == [(second, "SIGNING"), (first, "RETIRING")]
    assert told[2] == told[999] == [(second, "SIGNING")]
    assert states(Roots(first=first), NOW) == [(first, "SIGNING")]
    assert [roots.changes_at(NOW + timedelta(hours=hours)) for hours in (0, 1, 2)] == [NOW + hour, NOW + 2 * hour, None]


async def rotate(auth: RunningAuth, overlap_s: int = 0) -> pb.Authorities:
    request = pb.RotateAuthorityRequest(overlap=Duration(seconds=overlap_s) if overlap_s else None)
    answer: pb.Authorities = await (await auth.admin()).identity.RotateAuthority(request)
    return answer


def described(told: pb.Authorities) -> list[str]:
    return [State.Name(each.state) for each in told.authorities]


async def test_a_rotation_is_followed_by_every_replica_and_comes_one_at_a_time(kv: KV, tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with (
        running_auth(kv, tmp_path, clock=clock) as auth,
        running_auth(kv, tmp_path, replica="b", clock=clock) as b,
    ):
        first = auth.bundle_pem
        told = await rotate(auth)
        assert described(told) == ["SIGNING", "PUBLISHED"]
        with pytest.raises(FailedPrecondition) as caught:
            await rotate(auth)
        assert caught.value.reason == "AUTHORITY_ROTATING"
        stubs = await b.client()
        for replica in (auth, b):  # neither was restarted, and the file for people holds both

            def trusts_both(which: RunningAuth = replica) -> bool:
                return which.app.identity.credentials.bundle_pem.count(b"BEGIN") == 2

            await until(trusts_both)
        assert auth.bundle_pem.startswith(first)
        assert await bundle(stubs) == auth.bundle_pem
        await clock.advance(2 * HOUR + 1)
        await until(lambda: auth.bundle_pem.endswith(first))  # the other one signs
        assert await bundle(stubs) == auth.bundle_pem
        await clock.advance(2 * HOUR + 1)
        await until(lambda: first not in auth.bundle_pem)
        assert await bundle(stubs) == auth.bundle_pem


async def bundle(stubs: Stubs) -> bytes:
    answer = await stubs.identity.GetTrustBundle(pb.GetTrustBundleRequest())
    return bytes(answer.pem.encode())


async def test_the_next_rotation_starts_from_the_root_that_has_taken_over(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    async with MemoryKV(clock) as kv:
        config = auth_config(tmp_path)
        await init(config, kv, clock)
        kek = Kek.load(config.kek_file)
        audit = AuditTrail(kv, clock, kek.derive(HEAD_KEY))
        authorities = Authorities(kv, kek, audit, clock, timedelta(hours=1))
        assert await authorities.load()
        seen = [authorities.signing.fingerprint]
        for _ in range(3):
            await authorities.rotate(None)
            assert authorities.signing.fingerprint == seen[-1]
            await clock.advance(4 * HOUR)
            seen.append(authorities.signing.fingerprint)
            assert authorities.trust_bundle_pem.count("BEGIN") == 1
        assert len(set(seen)) == 4


async def test_the_overlap_must_let_everybody_renew_and_only_administrators_rotate(memory_auth: RunningAuth) -> None:
    with pytest.raises(InvalidArgument, match="3600 s"):
        await rotate(memory_auth, HOUR - 1)
    member = await memory_auth.peer(await memory_auth.join("agent/n1"))
    with pytest.raises(Unauthenticated):
        await member.identity.RotateAuthority(pb.RotateAuthorityRequest())
    assert described(await (await memory_auth.admin()).identity.ListAuthorities(pb.ListAuthoritiesRequest())) == [
        "SIGNING"
    ]


class Member:
    """A member of the mesh that serves, and calls another one and auth."""

    def __init__(self, identity: Identity, server: Server) -> None:
        self.identity, self.server = identity, server


@asynccontextmanager
async def member(auth: RunningAuth, name: str, folder: Path) -> AsyncIterator[Member]:
    """Admitted by auth with a join token; it renews when told to, as `Identity.renew_forever` would."""
    ports = auth.ports()
    issuer = AuthIssuer(
        auth_address=f"127.0.0.1:{ports['client']}",
        auth_mesh_address=f"127.0.0.1:{ports['mesh']}",
        trust_bundle_pem=auth.bundle_pem,
    )
    identity = await Identity.obtain(
        issuer=issuer,
        join_token=await auth.join_token(f"service/{name}"),
        hosts=("localhost", "127.0.0.1", name),
        folder=folder / name,
    )
    access, metrics = PolicyReplica(), RpcMetrics()
    access.apply(PolicySnapshot(revision=1, roles={}, bindings=(), jwks={"keys": []}, issuer="x", audience="x"))
    server = Server(
        name,
        [(add_echo_to_server, Echo())],
        listeners=[
            Listener(name="mesh", address="127.0.0.1:0", credentials=identity.server_credentials(require_client=True))
        ],
        middleware=stack(access, metrics),
    )
    async with server:
        yield Member(identity, server)


async def calls_while(caller: Member, callee: Member, steps: Sequence[Callable[[], Awaitable[None]]]) -> Counter[str]:
    """How calls end meanwhile: over the standing channel, and over a new connection each time."""
    ended: Counter[str] = Counter()
    stopping = asyncio.Event()
    address = {callee.server.name: f"127.0.0.1:{callee.server.ports['mesh']}"}

    async def call(peers: Peers, kind: str) -> None:
        try:
            await EchoStub(peers.channel(callee.server.name)).ForPeers(EchoMessage(text="x"), timeout=5)
            ended[f"{kind} OK"] += 1
        except LeptonError as error:
            ended[f"{kind} {error.code.name}"] += 1

    async def standing() -> None:
        async with Peers(address, caller.identity) as peers:
            while not stopping.is_set():
                await call(peers, "standing")

    async def new() -> None:
        while not stopping.is_set():
            async with Peers(address, caller.identity) as peers:
                await call(peers, "new")

    calling = [asyncio.create_task(each()) for each in (standing, new)]
    try:
        for step in steps:
            before = ended.copy()
            await step()
            for kind in ("standing", "new"):
                await until(lambda: _of(ended, kind) > _of(before, kind) + 3, 20)  # noqa: B023
    finally:
        stopping.set()
        await asyncio.gather(*calling)
    return ended


def _of(ended: Counter[str], kind: str) -> int:
    return sum(count for each, count in ended.items() if each.startswith(kind))


async def take(auth: RunningAuth, roots: Roots) -> None:
    """The store says this of the roots, as after a rotation some time ago; returns when auth acts by it."""
    kek = Kek.load(auth.config.kek_file)
    put = roots_put(roots, kek)
    await auth.kv.txn([], [put])
    wanted = roots.bundle_pem(auth.clock.now()).encode()
    await until(lambda: auth.bundle_pem == wanted and auth.app.identity.credentials.bundle_pem == wanted)


@dataclass
class Rotation:
    """Two members of a mesh whose root is replaced step by step."""

    auth: RunningAuth
    caller: Member
    callee: Member
    former: Authority
    fresh: Authority

    async def step(self, signs_in: timedelta, ends_in: timedelta) -> None:
        now = self.auth.clock.now()
        await take(
            self.auth, Roots(first=self.former, next=self.fresh, sign_time=now + signs_in, trust_end=now + ends_in)
        )

    async def published(self) -> None:
        await self.step(timedelta(days=1), timedelta(days=2))

    async def signing(self) -> None:
        await self.step(timedelta(seconds=-1), timedelta(days=1))

    async def alone(self) -> None:
        await self.step(timedelta(days=-2), timedelta(seconds=-1))

    async def calls(self, *steps: Callable[[], Awaitable[None]]) -> Counter[str]:
        return await calls_while(self.caller, self.callee, steps)


@pytest_asyncio.fixture
async def rotation(tmp_path: Path) -> AsyncIterator[Rotation]:
    clock = SystemClock()
    async with (
        MemoryKV(clock) as kv,
        running_auth(kv, tmp_path, clock=clock) as auth,
        member(auth, "scheduler", tmp_path) as caller,
        member(auth, "trainer", tmp_path) as callee,
    ):
        roots = await load_roots(kv, Kek.load(auth.config.kek_file), clock)
        assert roots is not None
        yield Rotation(auth, caller, callee, former=roots.first, fresh=Authority.create(clock))


async def test_no_call_fails_while_the_root_is_replaced(rotation: Rotation) -> None:
    """Members renew one after the other: at every moment one knows more than the other, and both call auth."""
    caller, callee = rotation.caller.identity, rotation.callee.identity
    former = caller.credentials.issuer_key
    ended = await rotation.calls(
        *(rotation.published, caller.renew, callee.renew),
        *(rotation.signing, callee.renew, caller.renew),
        *(rotation.alone, caller.renew, callee.renew),
    )
    assert set(ended) == {"standing OK", "new OK"}, ended
    for identity in (caller, callee, rotation.auth.app.identity):
        assert identity.credentials.bundle_pem == rotation.fresh.trust_bundle_pem.encode()
        assert identity.credentials.issuer_key != former


async def test_without_the_overlap_calls_fail(rotation: Rotation) -> None:
    """The control: it signs before everybody trusts it."""
    identity = rotation.caller.identity

    async def signed_too_soon() -> None:
        key_pem, csr_pem = signing_request(("localhost",))
        request = SigningRequest.parse(csr_pem.decode())
        issued = rotation.fresh.sign(request, "service/scheduler", timedelta(hours=1))
        chain_pem = issued.certificate_pem.encode()
        identity.replace(replace(identity.credentials, key_pem=key_pem, chain_pem=chain_pem))

    ended = await rotation.calls(rotation.signing, signed_too_soon)
    assert ended["new UNAVAILABLE"] > 0


async def test_who_has_slept_through_the_overlap_must_be_admitted_anew(rotation: Rotation) -> None:
    await rotation.alone()
    late = await rotation.auth.peer(rotation.callee.identity.credentials)
    with pytest.raises(Unavailable):
        await late.identity.RenewCertificate(pb.RenewCertificateRequest(csr_pem="x"), timeout=5)
    async with member(rotation.auth, "inference", rotation.auth.config.kek_file.parent) as admitted:
        assert admitted.identity.credentials.bundle_pem == rotation.fresh.trust_bundle_pem.encode()
