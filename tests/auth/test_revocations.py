"""No access token survives the end of its session."""

from datetime import timedelta

from chassis.kv import DeletePrefix, Put
from lepton.names import UserName
from services.auth import layout
from services.auth.revocations import Revocations
from tests.harness.memory_kv import MemoryKV

ALICE = UserName("alice")


async def revoked(kv: MemoryKV) -> set[str]:
    return {
        entry.key.removeprefix(layout.REVOKED_SESSIONS) for entry in (await kv.list(layout.REVOKED_SESSIONS)).entries
    }


async def test_sessions_that_a_deletion_took_unseen_are_revoked_after_it() -> None:
    kv = MemoryKV()
    revocations = Revocations(kv, timedelta(minutes=5))
    for at in range(250):
        await kv.put(layout.session(ALICE, f"{at:04d}"), b"")
    seen = await revocations.of_user(ALICE)
    assert len(seen) == 100
    late = layout.session(ALICE, "late")
    await kv.put(late, b"")
    done = await kv.txn([], [DeletePrefix(layout.sessions(ALICE)), *seen])
    await kv.put(layout.session(ALICE, "next"), b"")
    await revocations.complete(ALICE, done.revision)
    assert await revoked(kv) == {*(f"{at:04d}" for at in range(250)), "late"}


async def test_after_a_compaction_there_is_nothing_left_to_revoke() -> None:
    kv = MemoryKV()
    revision = await kv.put(layout.session(ALICE, "s"), b"")
    done = await kv.txn([], [DeletePrefix(layout.sessions(ALICE)), Put("/x", b"")])
    await kv.compact(done.revision)
    await Revocations(kv, timedelta(minutes=5)).complete(ALICE, done.revision)
    assert revision < done.revision
    assert await revoked(kv) == set()
