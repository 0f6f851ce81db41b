"""The truth of the etcd client: what a follower sees of many writes while etcd is killed, restarted and compacted.

Every write is known to have happened exactly once, because it is guarded and so may be repeated after any failure. In
every second round the follower is kept away until after the compaction, so that it has to read again and compare.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop

from chassis.etcd import EtcdKV
from chassis.kv import Delete, OutcomeUnknown, Page, Put, Unavailable, absent, follow, present
from tests.harness.etcd import EtcdCluster
from tests.harness.proxy import Proxy

PREFIX: Final = "/truth/"
END: Final = PREFIX + "~end"
MARKER: Final = "/compaction"
WORKERS: Final = 32
DELETE_EVERY: Final = 10  # one write in ten deletes what the same worker wrote LAG writes before
LAG: Final = 400


class CountingKV(EtcdKV):
    """Counts how often the follower had to read everything."""

    snapshots = 0

    async def list(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> Page:
        self.snapshots += not start_after
        return await super().list(prefix, limit=limit, start_after=start_after, revision=revision)


@dataclass(slots=True)
class Record:
    """What was written, what was seen, and how long things took."""

    written: Counter[tuple[str, str]] = field(default_factory=Counter)
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    unknown: int = 0
    unavailable: int = 0
    last_event_at: float = 0.0
    event: asyncio.Event = field(default_factory=asyncio.Event)
    recovery_s: list[float] = field(default_factory=list)
    resume_s: list[float] = field(default_factory=list)
    reread_s: list[float] = field(default_factory=list)
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    def wrote(self, kind: str, key: str) -> None:
        """Note a write that certainly happened."""
        self.written[kind, key] += 1
        self.progress.set()


async def write(kv: EtcdKV, record: Record, key: str, is_deletion: bool) -> None:
    """Create or delete a key, once."""
    guard, op = (present(key), Delete(key)) if is_deletion else (absent(key), Put(key, b"x" * 64))
    while True:
        try:
            await kv.txn([guard], [op])
        except OutcomeUnknown:
            record.unknown += 1
        except Unavailable:
            record.unavailable += 1
        else:
            return record.wrote("delete" if is_deletion else "put", key)


async def work(kv: EtcdKV, record: Record, worker: int, writes: int) -> None:
    """One writer's share."""
    for number in range(writes):
        is_deletion = number % DELETE_EVERY == DELETE_EVERY - 1 and number > LAG
        key = f"{PREFIX}{worker:02}/{number - LAG - 1 if is_deletion else number:06}"
        await write(kv, record, key, is_deletion)


async def watch(kv: EtcdKV, record: Record) -> None:
    """Follow until the last key is seen."""
    async with aclosing(follow(kv, PREFIX)) as batches:
        async for batch in batches:
            record.last_event_at = time.monotonic()
            record.event.set()
            for event in batch.events:
                if event.key == END:
                    return
                record.seen["put" if event.entry else "delete", event.key] += 1


async def disturb(etcd: EtcdCluster, proxy: Proxy, kv: EtcdKV, record: Record, writes: int, rounds: int) -> None:
    """Kill, restart and compact etcd at even distances of progress."""
    for number in range(rounds):
        await more_writes(record, writes * (number + 1) // (rounds + 1))
        await crash(etcd, proxy, kv, record, keep_away=number % 2 == 1)


async def crash(etcd: EtcdCluster, proxy: Proxy, kv: EtcdKV, record: Record, keep_away: bool) -> None:
    """One round."""
    if keep_away:
        proxy.cut()
    etcd.kill()
    killed_at = time.monotonic()
    await etcd.start()
    healthy_at = time.monotonic()
    record.recovery_s.append(healthy_at - killed_at)
    if not keep_away:
        record.resume_s.append(await first_event_after(record, healthy_at))
        await compact(kv)
        return
    await more_writes(record, record.written.total() + 1000)  # what the follower will have to find out by comparing
    await compact(kv)
    proxy.heal()
    record.reread_s.append(await first_event_after(record, time.monotonic()))


async def compact(kv: EtcdKV) -> None:
    """Forget all history before a write of our own.

    etcd 3.4.23 forgets a deletion at the very revision of a compaction too, without a word to the watches that have
    come just so far (etcd-io/etcd#18089). No client could find that out; a put at that revision stays.
    """
    await kv.compact(await kv.put(MARKER, b""))


async def more_writes(record: Record, total: int) -> None:
    """Wait until so much is written."""
    while record.written.total() < total:
        record.progress.clear()
        await record.progress.wait()


async def first_event_after(record: Record, at: float) -> float:
    """How long after the moment the follower was told something."""
    async with asyncio.timeout(60):
        while record.last_event_at < at:
            record.event.clear()
            await record.event.wait()
    return record.last_event_at - at


def summary(times_s: list[float]) -> dict[str, float]:
    """The middle and the worst."""
    return {"p50": round(statistics.median(times_s), 3), "max": round(max(times_s), 3)}


async def measure(directory: Path, writes: int, rounds: int) -> dict[str, object]:
    """Run it all."""
    record = Record()
    async with (
        EtcdCluster(directory) as etcd,
        Proxy(etcd.endpoints[0]) as proxy,
        EtcdKV(etcd.endpoints) as kv,
        CountingKV([proxy.endpoint]) as follower,
    ):
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch(follower, record))
            async with asyncio.TaskGroup() as writing:
                writing.create_task(disturb(etcd, proxy, kv, record, writes, rounds))
                for worker in range(WORKERS):
                    share = writes // WORKERS + (worker < writes % WORKERS)
                    writing.create_task(work(kv, record, worker, share))
            took_s = time.monotonic() - began
            await kv.put(END, b"")
            await asyncio.wait_for(watching, 60)
    return {
        "writes": record.written.total(),
        "of_which_deletes": sum(count for (kind, _), count in record.written.items() if kind == "delete"),
        "kills": rounds,
        "compactions": rounds,
        "follower_snapshots": follower.snapshots,
        "writes_of_unknown_outcome": record.unknown,
        "writes_unavailable": record.unavailable,
        "lost": (record.written - record.seen).total(),
        "duplicated": (record.seen - record.written).total(),
        "etcd_recovery_s": summary(record.recovery_s),
        "resume_after_health_s": summary(record.resume_s),
        "reread_after_compaction_s": summary(record.reread_s),
        "seconds": round(took_s, 1),
        "writes_per_s": round(writes / took_s),
    }


def main() -> int:
    """Measure, print, and fail when anything was lost or came twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writes", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lepton-etcd-truth-") as directory:
        figures = uvloop.run(measure(Path(directory), arguments.writes, arguments.rounds))
    print(json.dumps({"bench": "etcd_truth", **figures}))
    return 1 if figures["lost"] or figures["duplicated"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
