"""MemoryKV answers as etcd does: the same random transactions on both, every answer and every event compared."""

import asyncio
import random
from contextlib import aclosing
from dataclasses import replace
from uuid import uuid4

import pytest

from chassis.etcd import EtcdKV
from chassis.kv import (
    Compare,
    Delete,
    DeletePrefix,
    Entry,
    Event,
    Get,
    Op,
    Put,
    TxnResult,
    absent,
    created,
    mod,
    present,
)
from tests.contracts.kv import CompactableKV, take
from tests.harness.memory_kv import MemoryKV

pytestmark = pytest.mark.integration
KEYS = ("a", "a/1", "a/2", "b", "b/1", "c")


class Recorder:
    """Carries out a random script on one store and notes all that it says, with revisions counted from the start."""

    def __init__(self, kv: CompactableKV, prefix: str, seed: int) -> None:
        self._kv = kv
        self._prefix = prefix
        self._random = random.Random(seed)
        self._start = 0
        self._last = 0

    async def record(self, steps: int) -> list[object]:
        self._start = self._last = await self._kv.put(self._prefix + "z", b"")
        said = [await self._step() for _ in range(steps)]
        events = sorted(map(self._event, await self._events()), key=lambda event: (event.revision, event.key))
        return [*said, *events]

    async def _events(self) -> list[Event]:
        events: list[Event] = []
        async with aclosing(self._kv.watch(self._prefix, start_revision=self._start)) as batches:
            while not events or events[-1].revision < self._last:
                events += await take(batches, 1)
        return events

    async def _step(self) -> object:
        if self._random.random() < 0.2:
            at = self._random.randint(self._start, self._last)
            page = await self._kv.list(
                self._prefix + self._random.choice(("", "a", "a/")), limit=self._random.randint(0, 3), revision=at
            )
            return [self._entry(entry) for entry in page.entries], page.more, page.revision - self._start
        compare = [self._compare() for _ in range(self._random.choice((0, 0, 1, 2)))]
        result = await self._kv.txn(compare, self._ops(), self._ops())
        if result.revision > self._last:
            self._last = result.revision
        return self._result(result)

    def _key(self) -> str:
        return self._prefix + self._random.choice(KEYS)

    def _compare(self) -> Compare:
        key, revision = self._key(), self._random.randint(self._start, self._last)
        return self._random.choice((absent(key), present(key), mod(key, revision), created(key, revision)))

    def _ops(self) -> list[Op]:
        puts = set(self._random.sample(KEYS, self._random.randint(0, 3)))
        ops: list[Op] = [Put(self._prefix + key, self._random.randbytes(3)) for key in sorted(puts)]
        ops += [Delete(self._prefix + key) for key in KEYS if key not in puts and self._random.random() < 0.2]
        if not any(key.startswith("a/") for key in puts) and self._random.random() < 0.2:
            ops.append(DeletePrefix(self._prefix + "a/"))
        ops += [Get(self._key()) for _ in range(self._random.randint(0, 2))]
        self._random.shuffle(ops)
        return ops

    def _entry(self, entry: Entry | None) -> Entry | None:
        if entry is None:
            return None
        return replace(
            entry,
            key=entry.key.removeprefix(self._prefix),
            create_revision=entry.create_revision - self._start,
            mod_revision=entry.mod_revision - self._start,
        )

    def _event(self, event: Event) -> Event:
        key = event.key.removeprefix(self._prefix)
        return Event(key=key, entry=self._entry(event.entry), revision=event.revision - self._start)

    def _result(self, result: TxnResult) -> TxnResult:
        responses = tuple(replace(response, entry=self._entry(response.entry)) for response in result.responses)
        return replace(result, revision=result.revision - self._start, responses=responses)


@pytest.mark.parametrize("seed", range(4))
async def test_both_stores_say_the_same(seed: int, etcd_kv: EtcdKV) -> None:
    prefix = f"/equal/{uuid4().hex}/"
    async with MemoryKV() as memory, asyncio.timeout(60):
        expected = await Recorder(etcd_kv, prefix, seed).record(steps=150)
        actual = await Recorder(memory, prefix, seed).record(steps=150)
    assert actual == expected
