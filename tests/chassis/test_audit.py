"""Auditing in a service: nothing is answered that is not recorded, whatever happens to process, disk and auth."""

import asyncio
import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.echo import Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis.access import PolicyReplica
from chassis.audit import spool as spools
from chassis.audit.auditor import Auditor
from chassis.audit.frames import Kind, frame, scan
from chassis.audit.repeats import WINDOW_S, Repeats
from chassis.audit.shipper import Shipper
from chassis.audit.spool import Spool, SpoolFull, SpoolInUse
from chassis.clock import SystemClock
from chassis.config import AuditSettings
from lepton import channel, errors
from lepton.audit.record import Outcome
from lepton.internal.v1.audit_feed_pb2 import AuditEntry
from tests.harness.mesh import Mesh, serving
from tests.harness.wait import until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
LIMIT = 64 << 20
ACME = EchoMessage(name="projects/acme/jobs/one", text="hello")


class Log:
    """Auth, as far as a service knows it: takes each number once."""

    def __init__(self) -> None:
        self.taken: dict[str, list[AuditEntry]] = {}
        self.is_away = False
        self.forgets_to_answer = 0

    async def append(self, spool: str, entries: Sequence[AuditEntry]) -> int:
        if self.is_away:
            raise errors.Unavailable("UNREACHABLE")
        known = self.taken.setdefault(spool, [])
        for entry in entries:
            if not known or entry.number > known[-1].number:
                assert not known or entry.number == known[-1].number + 1, "a gap"
                known.append(entry)
        if self.forgets_to_answer:
            self.forgets_to_answer -= 1
            raise errors.Unavailable("UNREACHABLE")
        return known[-1].number if known else 0

    @property
    def entries(self) -> list[AuditEntry]:
        return [entry for spool in self.taken.values() for entry in spool]

    def done(self) -> list[tuple[str, str, str, Outcome, str]]:
        return [
            (each.action.rpartition("/")[2], each.actor, each.resource, Outcome(each.outcome), each.reason)
            for each in self.entries
        ]


class Service:
    """A served Echo whose calls are recorded."""

    def __init__(self, mesh: Mesh, log: Log, spool: Spool, auditor: Auditor) -> None:
        self.mesh, self.log, self.spool, self.auditor = mesh, log, spool, auditor

    async def call(self, method: str, request: Any = ACME, caller: str | None = "users/alice") -> Any:
        async with self.mesh.client(caller) as connection:
            return await getattr(EchoStub(connection), method)(request)


@asynccontextmanager
async def service(
    folder: Path, servicer: Any = None, log: Log | None = None, *, sync: Any = os.fdatasync, **settings: Any
) -> AsyncIterator[Service]:
    log, access = log or Log(), PolicyReplica()
    with Spool(folder, LIMIT, sync) as spool:
        auditor = Auditor(spool, log, access, SystemClock(), AuditSettings(**settings))
        handing_over = asyncio.create_task(auditor.run())
        try:
            async with serving((add_echo_to_server, servicer or Echo()), access=access, auditor=auditor) as mesh:
                yield Service(mesh, log, spool, auditor)
        finally:
            handing_over.cancel()
            await asyncio.gather(handing_over, return_exceptions=True)


def entry(number: int) -> AuditEntry:
    return AuditEntry(time_ns=number, outcome=Outcome.SUCCEEDED, action="x", resource=f"r{number}")


@contextmanager
def no_room() -> Iterator[None]:
    """No file may grow beyond 64 KiB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- which calls are recorded -------------------------------------------------------------------------------------


async def test_mutations_and_refusals_are_recorded_and_reads_are_not(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.call("Change")
        await served.call("Echo")
        with pytest.raises(errors.PermissionDenied):
            await served.call("Change", caller="users/carol")
        with pytest.raises(errors.NotFound):
            await served.call("Echo", EchoMessage(name="projects/other/jobs/one", text="x"))
        with pytest.raises(errors.Unauthenticated):
            await served.call("Echo", caller=None)
        with pytest.raises(errors.PermissionDenied):
            await served.call("Forgotten", caller="users/root")
        with pytest.raises(errors.InvalidArgument):
            await served.call("Change", EchoMessage(name="projects/acme/jobs/one"))  # refused before it was begun
        expected = {
            ("Change", "users/alice", "projects/acme/jobs/one", Outcome.SUCCEEDED, ""),
            ("Change", "users/carol", "projects/acme/jobs/one", Outcome.REFUSED, "PERMISSION_DENIED"),
            ("Echo", "users/alice", "projects/other/jobs/one", Outcome.REFUSED, "JOB_NOT_FOUND"),
            ("Echo", "", "", Outcome.REFUSED, "TOKEN_MISSING"),
            ("Forgotten", "", "", Outcome.REFUSED, "METHOD_WITHOUT_RULE"),
        }
        await until(lambda: len(served.log.done()) >= len(expected))
        assert set(served.log.done()) == expected
    assert all(each.source.startswith("ipv4:127.0.0.1") for each in served.log.entries)
    assert all(each.policy_revision == 1 for each in served.log.entries)


async def test_how_a_mutation_ended_is_recorded(tmp_path: Path) -> None:
    class Failing(Echo):
        async def Change(self, request: Any, context: Any) -> Any:
            if request.text == "bug":
                raise ValueError("secret detail")
            if request.text == "wait":
                await asyncio.Event().wait()
            raise errors.FailedPrecondition("WORKLOAD_ENDED", workload="w", state="s")

    async with service(tmp_path, Failing()) as served:
        for text, kind in (("bug", errors.Internal), ("no", errors.FailedPrecondition)):
            with pytest.raises(kind):
                await served.call("Change", EchoMessage(name="projects/acme/jobs/one", text=text))
        request = EchoMessage(name="projects/acme/jobs/one", text="wait")
        async with served.mesh.client("users/alice") as connection:
            with pytest.raises(errors.DeadlineExceeded):
                await EchoStub(connection).Change(request, timeout=0.2)
        await until(lambda: len(served.log.entries) == 3)
    assert [(outcome, reason) for *_, outcome, reason in served.log.done()] == [
        (Outcome.FAILED, "ValueError"),
        (Outcome.FAILED, "WORKLOAD_ENDED"),
        (Outcome.FAILED, "CancelledError"),
    ]


async def test_streams_are_recorded_by_what_they_are(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.mesh.client("users/alice") as connection:
        stub = EchoStub(connection)

        async def two() -> AsyncIterator[Any]:
            for _ in range(2):
                yield ACME

        assert [each async for each in stub.Watch(EchoMessage(name=ACME.name, text="x", count=2))]
        await stub.Collect(two())
        assert [each async for each in stub.Chat(two())]
        await until(lambda: len(served.log.entries) == 4)
    names = sorted((action, reason) for action, _, _, _, reason in served.log.done())
    assert names == [("Chat", ""), ("Chat", "OPENED"), ("Collect", ""), ("Watch", "")]
    assert all(each.resource == ACME.name for each in served.log.entries if each.reason != "OPENED")


async def test_what_is_in_messages_and_metadata_is_not_recorded(tmp_path: Path) -> None:
    canary = "c4n4ry0123456789"

    class Leaky(Echo):
        async def Change(self, request: Any, context: Any) -> Any:
            raise errors.InvalidArgument("INVALID_FIELD", fields={"text": canary})

    async with service(tmp_path, Leaky()) as served:
        served.log.is_away = True
        for name in ("projects/acme/jobs/one", f"projects/acme/jobs/lpk_{canary}"):
            with pytest.raises(errors.InvalidArgument):
                await served.call("Change", EchoMessage(name=name, text=canary))
        async with served.mesh.client(token=f"eyJ{canary}.{canary}.x") as connection:
            with pytest.raises(errors.Unauthenticated):
                await EchoStub(connection).Echo(ACME, metadata=(("x-request-id", canary),))
        data = b"".join(path.read_bytes() for path in tmp_path.glob("*.spool"))  # noqa: ASYNC240
        assert b"projects/acme/jobs/one" in data
        assert canary.encode() not in data


# -- crashes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
async def test_a_service_that_is_killed_leaves_no_gap(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    acknowledged, hanging = await killed_service(tmp_path, random.Random(seed))
    log = Log()
    with Spool(tmp_path / "spool", LIMIT) as spool:
        shipper = Shipper(spool, log, SystemClock(), deque())
        await shipper.ship_all()
    recorded = {each.resource: Outcome(each.outcome) for each in log.entries}
    assert acknowledged
    assert all(recorded.get(name) is Outcome.SUCCEEDED for name in acknowledged)
    assert all(recorded.get(name) is Outcome.INTERRUPTED for name in hanging)
    done = set((tmp_path / "done").read_text().split())
    assert done <= set(recorded)  # nothing was done that is not recorded, acknowledged or not


async def test_without_the_begins_what_was_under_way_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, hanging = await killed_service(tmp_path, random.Random(0))
    for path in (tmp_path / "spool").glob("*.spool"):
        frames = [each for each in scan(path.read_bytes()) if each.kind is not Kind.BEGIN]
        path.write_bytes(b"".join(frame(each.kind, each.ticket, each.payload) for each in frames))
    log = Log()
    with Spool(tmp_path / "spool", LIMIT) as spool:
        await Shipper(spool, log, SystemClock(), deque()).ship_all()
    assert hanging
    assert not set(hanging) & {each.resource for each in log.entries}


async def killed_service(folder: Path, chance: random.Random) -> tuple[list[str], list[str]]:
    """Calls a service in a process of its own until it is killed: what was answered, and what never was."""
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "tests.chassis.audited", str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'sdk'}:{ROOT}"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    acknowledged: list[str] = []
    hanging = [f"projects/acme/jobs/h{at}" for at in range(3)]
    try:
        await until(lambda: (folder / "ready.json").exists(), 30)
        ready = json.loads((folder / "ready.json").read_text())
        async with channel.connect(
            f"127.0.0.1:{ready['port']}", token=ready["token"], trust_bundle_pem=ready["bundle"].encode(),
            server_name="trainer",
        ) as connection:  # fmt: skip
            stub = EchoStub(connection)
            waiting = [
                asyncio.ensure_future(stub.Change(EchoMessage(name=name, text="for ever"), timeout=60))
                for name in hanging
            ]
            await until(lambda: (folder / "done").exists() and (folder / "done").read_text().count("/h") == 3)
            kill_after = chance.randrange(20, 60)

            async def caller(number: int) -> None:
                for at in range(100):
                    name = f"projects/acme/jobs/c{number}-{at}"
                    await stub.Change(EchoMessage(name=name, text="x"), timeout=60)
                    acknowledged.append(name)
                    if len(acknowledged) == kill_after:
                        process.send_signal(signal.SIGKILL)

            await asyncio.gather(*(caller(number) for number in range(4)), return_exceptions=True)
            await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        process.kill()
        process.wait()
    return acknowledged, hanging


async def test_what_auth_took_without_an_answer_is_in_the_log_once(tmp_path: Path) -> None:
    log = Log()
    log.forgets_to_answer = 2
    async with service(tmp_path, log=log) as served:
        for _ in range(5):
            await served.call("Change")
        await until(lambda: not served.spool.backlog)
    assert len(log.entries) == 5


async def test_while_auth_is_away_records_wait_and_then_arrive_in_order(tmp_path: Path) -> None:
    log = Log()
    log.is_away = True
    async with service(tmp_path, log=log) as served:
        for at in range(20):
            await served.call("Change", EchoMessage(name=f"projects/acme/jobs/j{at}", text="x"))
        assert not log.entries
    log.is_away = False
    async with service(tmp_path, log=log):
        await until(lambda: len(log.entries) == 20)
    assert [each.resource for each in log.entries] == [f"projects/acme/jobs/j{at}" for at in range(20)]
    assert not list(tmp_path.glob("*.spool"))  # noqa: ASYNC240


async def test_a_torn_end_of_a_file_is_passed_over(tmp_path: Path) -> None:
    with Spool(tmp_path, LIMIT) as spool:
        for number in range(3):
            spool.add(entry(number))
    path = next(iter(tmp_path.glob("*.spool")))  # noqa: ASYNC240
    data = path.read_bytes()
    ends = [each.end for each in scan(data)]
    for cut in range(ends[-2], ends[-1]):
        path.write_bytes(data[:cut])
        with Spool(tmp_path, LIMIT) as spool:
            assert [each.number for each in spool.unsent(10)[1]] == [1, 2]
    damaged = bytearray(data)
    damaged[ends[-1] - 2] ^= 1
    path.write_bytes(damaged)
    with Spool(tmp_path, LIMIT) as spool:
        assert [each.number for each in spool.unsent(10)[1]] == [1, 2]


async def test_a_spool_has_one_writer(tmp_path: Path) -> None:
    with Spool(tmp_path, LIMIT), pytest.raises(SpoolInUse), Spool(tmp_path, LIMIT):
        pass


async def test_files_are_deleted_as_they_are_acknowledged_and_open_calls_move_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "SEGMENT_BYTES", 4 << 10)
    with Spool(tmp_path, LIMIT) as spool:
        ticket = spool.begin(entry(0))
        for number in range(1, 500):
            spool.add(entry(number))
        assert len(list(tmp_path.glob("*.spool"))) > 3  # noqa: ASYNC240
        taken: list[AuditEntry] = []
        while True:
            name, entries = spool.unsent(100)
            if not entries:
                break
            taken += entries
            spool.acknowledge(name, entries[-1].number)
        assert [each.number for each in taken] == list(range(1, 500))
        assert len(list(tmp_path.glob("*.spool"))) == 1  # noqa: ASYNC240
        assert ticket in spool._open
    log = Log()
    with Spool(tmp_path, LIMIT) as spool:
        await Shipper(spool, log, SystemClock(), buffer=deque()).ship_all()
    assert [(each.resource, Outcome(each.outcome)) for each in log.taken[list(log.taken)[-1]]] == [
        ("r0", Outcome.INTERRUPTED)
    ]


# -- a full or broken disk ----------------------------------------------------------------------------------------


async def test_mutations_are_refused_while_the_disk_is_full_and_nothing_is_done(tmp_path: Path) -> None:
    done = []

    class Doing(Echo):
        async def Change(self, request: Any, context: Any) -> Any:
            done.append(request.name)
            return request

    async with service(tmp_path, Doing()) as served:
        with no_room():
            with pytest.raises(errors.Unavailable) as caught:
                await served.call("Change")
            await served.call("Echo")  # reading goes on
        assert caught.value.reason == "AUDIT_UNAVAILABLE"
        assert not done
        await served.call("Change")
        assert done
        await until(lambda: len(served.log.entries) == 1)


async def test_mutations_that_were_begun_find_room_when_the_disk_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    go_on = asyncio.Event()

    class Slow(Echo):
        async def Change(self, request: Any, context: Any) -> Any:
            await go_on.wait()
            return request

    async with service(tmp_path, Slow()) as served:
        calls = [asyncio.ensure_future(served.call("Change")) for _ in range(20)]
        await until(lambda: len(served.spool._open) == 20)
        monkeypatch.setattr("chassis.audit.spool.os.posix_fallocate", full)
        monkeypatch.setattr(spools, "SEGMENT_BYTES", served.spool._position + served.spool._reserved)
        with pytest.raises(errors.Unavailable):
            await served.call("Change")
        go_on.set()
        await asyncio.gather(*calls)
        await until(lambda: len(served.log.entries) == 20)
    assert {each.outcome for each in served.log.entries} == {Outcome.SUCCEEDED}


async def test_by_policy_records_wait_in_memory_and_only_so_many(tmp_path: Path) -> None:
    async with service(tmp_path, when_full="buffer", buffer_records=5) as served:
        served.log.is_away = True
        with no_room():
            for at in range(5):
                await served.call("Change", EchoMessage(name=f"projects/acme/jobs/j{at}", text="x"))
            with pytest.raises(errors.Unavailable) as caught:
                await served.call("Change")
            assert caught.value.reason == "AUDIT_UNAVAILABLE"
            served.log.is_away = False
            await until(lambda: len(served.log.entries) == 5)
            await served.call("Change")
        await until(lambda: len(served.log.entries) == 6)
        await served.call("Change")
        await until(lambda: len(served.log.entries) == 7)
    assert [each.number for each in served.log.entries] == list(range(1, 8))


async def test_refusals_that_memory_has_no_room_for_are_counted(tmp_path: Path) -> None:
    async with service(tmp_path, buffer_records=2) as served:
        served.log.is_away = True
        with no_room():
            for at in range(6):
                with pytest.raises(errors.NotFound):
                    await served.call("Echo", EchoMessage(name=f"projects/other/jobs/j{at}", text="x"))
        served.log.is_away = False
        await until(lambda: any(each.action == "audit.lost" for each in served.log.entries))
    lost = [each for each in served.log.entries if each.action == "audit.lost"]
    refused = [each for each in served.log.entries if each.action != "audit.lost"]
    assert sum(each.count for each in lost) + len(refused) == 6


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
async def test_a_small_disk_that_fills_up_refuses_and_recovers(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(disk)]
    mounted = subprocess.run(argv, check=False)  # noqa: ASYNC221
    if mounted.returncode != 0:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        (disk / "other").write_bytes(bytes(2 << 20))
        async with service(disk / "spool") as served:
            with pytest.raises(errors.Unavailable):
                await served.call("Change")
            (disk / "other").unlink()
            await served.call("Change")
            await until(lambda: len(served.log.entries) == 1)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)  # noqa: ASYNC221


async def test_after_a_failed_fsync_the_records_go_to_another_file(tmp_path: Path) -> None:
    failing = {"left": 0}

    def sync(file: int) -> None:
        if failing["left"]:
            failing["left"] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(file)

    async with service(tmp_path, sync=sync) as served:
        served.log.is_away = True
        await served.call("Change", EchoMessage(name="projects/acme/jobs/a", text="x"))
        before = set(tmp_path.glob("*.spool"))  # noqa: ASYNC240
        failing["left"] = 1
        await served.call("Change", EchoMessage(name="projects/acme/jobs/b", text="x"))
        assert not before & set(tmp_path.glob("*.spool"))  # noqa: ASYNC240
        failing["left"] = 1000
        with pytest.raises(errors.Unavailable) as caught:
            await served.call("Change", EchoMessage(name="projects/acme/jobs/c", text="x"))
        assert caught.value.reason == "AUDIT_UNAVAILABLE"
        failing["left"] = 0
        served.log.is_away = False
        await served.call("Change", EchoMessage(name="projects/acme/jobs/d", text="x"))
        names = ["a", "b", "c", "d"]
        await until(lambda: [each.resource[-1] for each in served.log.entries] == names)


async def test_a_spool_that_auth_does_not_empty_is_full_at_its_limit(tmp_path: Path) -> None:
    big = AuditEntry(resource="r" * 512, action="a" * 512)
    with Spool(tmp_path, 2 * spools.SEGMENT_BYTES) as spool:
        for _ in range(7_000):
            spool.add(big)
        with pytest.raises(SpoolFull):
            deque(map(spool.add, [big] * 2_000))


# -- floods, and what it costs ------------------------------------------------------------------------------------


def test_refusals_alike_are_one_record_with_their_count() -> None:
    repeats = Repeats()

    def refusal(actor: str, resource_: str = "r") -> AuditEntry:
        return AuditEntry(actor=actor, action="x", resource=resource_, reason="PERMISSION_DENIED", count=1)

    assert repeats.take(refusal("a"), 0.0) is not None
    assert repeats.take(refusal("b"), 0.0) is not None
    assert all(repeats.take(refusal("a"), 1.0) is None for _ in range(9_999))
    assert repeats.due(WINDOW_S - 0.1) == []
    assert [(each.actor, each.count) for each in repeats.due(WINDOW_S)] == [("a", 9_999)]
    assert repeats.take(refusal("a"), WINDOW_S + 1) is not None
    recorded = sum(repeats.take(refusal("a", f"r{at}"), WINDOW_S + 1) is not None for at in range(50_000))
    counted = sum(each.count for each in repeats.due(float("inf")))
    assert recorded < 1_100
    assert recorded + counted == 50_000


class FakeCall:
    """What the auditor looks at of a call."""

    class method:  # noqa: N801
        path = "/lepton.bench.v1.EchoService/Change"

    class context:  # noqa: N801
        @staticmethod
        def peer() -> str:
            return "ipv4:127.0.0.1:40000"

    trace = principal = error = None
    peer, resource, asked, is_audited = "", "projects/acme/jobs/one", "", False
