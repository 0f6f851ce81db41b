"""What a node keeps: made once however many ask, found by a later agent, dropped by last use, never while held."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services.agent.digest_cache import DigestCache, make_read_only
from tests.harness.clock import ManualClock

KIB = 1 << 10


class Maker:
    """Makes folders of a size, and counts how often."""

    def __init__(self, size: int = 64 * KIB) -> None:
        self.made = 0
        self.size = size

    async def __call__(self, folder: Path) -> Mapping[str, Any]:
        self.made += 1
        await asyncio.to_thread((folder / "content").write_bytes, os.urandom(self.size))
        await asyncio.to_thread(make_read_only, folder)
        return {"name": "content"}


def cache(root: Path, clock: ManualClock, most_bytes: int = 1 << 30) -> DigestCache:
    opened = DigestCache(root, most_bytes=most_bytes, clock=clock)
    opened.clear_up()
    return opened


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


async def test_it_is_made_once_however_many_ask_at_once(tmp_path: Path) -> None:
    kept, maker = cache(tmp_path, ManualClock()), Maker()

    async def use() -> str:
        async with kept.hold("k", maker) as held:
            return str(held.folder / held.facts["name"])

    found = await asyncio.gather(*(use() for _ in range(8)))
    assert maker.made == 1
    assert set(found) == {str(tmp_path / "k" / "content")}
    async with cache(tmp_path, ManualClock()).hold("k", maker) as held:  # a later agent finds it
        assert (held.folder / "content").exists()
    assert maker.made == 1


async def test_what_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    kept, maker = cache(tmp_path, ManualClock()), Maker()

    async def fail(folder: Path) -> Mapping[str, Any]:
        await maker(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        async with kept.hold("k", fail):
            pass
    assert names(tmp_path) == []
    async with kept.hold("k", maker):
        assert maker.made == 2


async def test_one_that_is_cancelled_lets_the_next_make_it(tmp_path: Path) -> None:
    kept, maker, begun = cache(tmp_path, ManualClock()), Maker(), asyncio.Event()

    async def slow(folder: Path) -> Mapping[str, Any]:
        begun.set()
        await asyncio.Event().wait()
        return {}

    async def first() -> None:
        async with kept.hold("k", slow):
            pass

    async def second() -> None:
        async with kept.hold("k", maker):
            pass

    waiting = asyncio.create_task(first())
    await begun.wait()
    next_one = asyncio.create_task(second())
    waiting.cancel()
    await next_one
    assert maker.made == 1


async def test_what_was_half_made_when_the_agent_was_killed_is_removed(tmp_path: Path) -> None:
    kept, maker = cache(tmp_path, ManualClock()), Maker()
    async with kept.hold("whole", maker):
        pass
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "content").write_text("x")
    make_read_only(tmp_path / "half")
    (tmp_path / "half.tar").write_text("x")
    cache(tmp_path, ManualClock())
    assert names(tmp_path) == ["whole", "whole.whole"]


async def test_the_longest_unused_is_dropped_and_what_is_held_never(tmp_path: Path) -> None:
    clock, maker = ManualClock(), Maker()
    kept = cache(tmp_path, clock, most_bytes=150 * KIB)  # two of them

    async def use(key: str) -> None:
        await clock.advance(10)
        async with kept.hold(key, maker):
            pass

    async with kept.hold("held", maker):
        await use("a")
        await use("b")
        assert names(tmp_path) == ["b", "b.whole", "held", "held.whole"]
        await use("c")
        assert (tmp_path / "held").exists()
    await use("c")
    await use("b")
    await use("d")
    assert names(tmp_path) == ["b", "b.whole", "d", "d.whole"]


async def test_one_that_lost_its_folder_or_its_mark_is_made_again(tmp_path: Path) -> None:
    kept, maker = cache(tmp_path, ManualClock()), Maker()
    for damage in (
        lambda: None,
        lambda: (tmp_path / "k.whole").write_text("{"),
        lambda: (tmp_path / "k.whole").unlink(),
    ):
        damage()
        async with kept.hold("k", maker) as held:
            assert (held.folder / "content").exists()
    assert maker.made == 3
