"""Journals: everything stored once, whatever comes twice, late or half; followed by many, from several processes."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.internal.v1 import run_report_pb2 as report
from services.trainer import journal_file
from services.trainer.journal import Journal, Journals, Source, log_line, metric_point
from services.trainer.sequences import Sequences

RANK0, RANK1 = Source(generation=1, rank=0), Source(generation=1, rank=1)


def lines(*sequences: int, text: str = "line {}") -> list[report.RunEvent]:
    return [
        report.RunEvent(sequence=number, output=report.OutputLine(text=text.format(number))) for number in sequences
    ]


async def texts(journal: Journal, offset: int = 0) -> list[str]:
    found: list[str] = []
    while page := await journal.read(offset):
        offset = page[-1]["offset"]
        found += [line["text"] for line in page]
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journals" / "uid.jsonl"


async def test_what_was_appended_is_read_with_its_offsets(path: Path) -> None:
    journal = Journal(path)
    assert await journal.read(0) == []
    assert await journal.append(RANK0, lines(1, 2, 3)) == 3
    assert [line["offset"] for line in await journal.read(1)] == [2, 3]


@pytest.mark.parametrize("order", list(itertools.permutations(([1, 2], [2, 3, 4], [5]))))
async def test_batches_that_come_twice_or_late_are_stored_once(path: Path, order: Iterable[list[int]]) -> None:
    journal = Journal(path)
    for batch in (*order, *order):
        assert await journal.append(RANK0, lines(*batch)) == batch[-1]
    assert sorted(await texts(journal)) == [f"line {number}" for number in range(1, 6)]


async def test_an_event_twice_in_one_batch_is_stored_once(path: Path) -> None:
    journal = Journal(path)
    await journal.append(RANK0, lines(1, 1, 2))
    assert await texts(journal) == ["line 1", "line 2"]


async def test_ranks_and_generations_count_on_their_own(path: Path) -> None:
    journal = Journal(path)
    for source in (RANK0, RANK1, Source(generation=2, rank=0)):
        await journal.append(source, lines(1))
    assert len(await texts(journal)) == 3


async def test_a_trainer_that_lost_its_disk_takes_what_comes(path: Path) -> None:
    assert await Journal(path).append(RANK0, lines(58, 59)) == 59


async def test_it_is_the_same_after_a_restart(path: Path) -> None:
    await Journal(path).append(RANK0, lines(1, 2))
    again = Journal(path)
    await again.append(RANK0, lines(2, 3))
    assert await texts(again) == ["line 1", "line 2", "line 3"]


def cut(path: Path, size: int) -> None:
    os.truncate(path, path.stat().st_size - size)


def whole_lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


@pytest.mark.parametrize("lost", [1, 5, 20])
async def test_a_line_half_written_at_a_crash_is_written_again(path: Path, lost: int) -> None:
    await Journal(path).append(RANK0, lines(1, 2))
    cut(path, lost)
    again = Journal(path)
    assert await texts(again) == ["line 1"]
    await again.append(RANK0, lines(2, 3))
    assert await texts(again) == ["line 1", "line 2", "line 3"]
    assert all(json.loads(line) for line in whole_lines(path))


async def test_lines_hold_any_text(path: Path) -> None:
    journal = Journal(path)
    odd = 'a\r\x85\u2028"\\\x00\ud7ff {}'
    await journal.append(RANK0, lines(1, 2, text=odd))
    assert await texts(journal) == [odd.format(1), odd.format(2)]
    assert await texts(Journal(path)) == [odd.format(1), odd.format(2)]


async def test_several_processes_write_and_read_one_file(path: Path) -> None:
    first, second = Journal(path), Journal(path)
    for number in range(1, 20):
        await (first, second)[number % 2].append(RANK0, lines(number))
    await asyncio.gather(*(each.append(RANK1, lines(*range(1, 50))) for each in (first, second)))
    assert await texts(first) == await texts(second)
    assert len(await texts(first)) == 19 + 49


async def test_a_page_fits_into_an_answer(path: Path) -> None:
    journal = Journal(path)
    await journal.append(RANK0, lines(*range(1, 101), text="x" * 60_000 + "{}"))
    page = await journal.read(0)
    assert 1 <= len(page) < 100
    assert sum(len(line["text"]) for line in page) <= 1 << 20
    assert len(await texts(journal)) == 100


async def followed(pages: AsyncGenerator[list[dict[str, Any]], None]) -> list[int]:
    async with aclosing(pages):
        return [line["sequence"] async for page in pages for line in page]


async def test_followers_see_everything_and_end(path: Path) -> None:
    journal, ended = Journal(path), asyncio.Event()
    followers = [asyncio.ensure_future(followed(journal.follow(0, ended))) for _ in range(3)]
    for number in range(1, 30):
        await journal.append(RANK0, lines(number))
    ended.set()
    assert await asyncio.gather(*followers) == [list(range(1, 30))] * 3


async def test_a_follower_sees_what_another_process_appends(path: Path) -> None:
    journal, ended = Journal(path), asyncio.Event()
    async with aclosing(journal.follow(0, ended)) as pages, asyncio.timeout(5):
        coming = asyncio.ensure_future(anext(pages))
        await asyncio.sleep(0)
        await Journal(path).append(RANK0, lines(1))
        assert [line["sequence"] for line in await coming] == [1]


async def test_a_failure_is_waited_for(path: Path) -> None:
    journal = Journal(path)
    told = asyncio.ensure_future(journal.failure_told(1))
    await journal.append(RANK0, lines(1))
    assert not told.done()
    await journal.append(RANK0, [report.RunEvent(sequence=2, failure=report.RankFailure(message="no"))])
    async with asyncio.timeout(5):
        await told


def test_a_deleted_journal_is_gone_and_the_rest_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.trainer.journal._OPEN", 2)
    journals = Journals(tmp_path)
    first = journals.of("a")
    assert journals.of("a") is first
    for uid in "bc":
        journals.of(uid)
    assert journals.of("a") is not first
    (tmp_path / "a.jsonl").write_bytes(b"")
    journals.delete("a")
    journals.delete("a")
    assert not (tmp_path / "a.jsonl").exists()


async def test_lines_are_output_or_measurements_or_neither(path: Path) -> None:
    journal = Journal(path)
    measured = report.Measurement(step=3, epoch=1, values={"loss": 0.5})
    events = [
        *lines(1),
        report.RunEvent(sequence=2, measurement=measured),
        report.RunEvent(sequence=3, phase="training"),
    ]
    events[0].output.is_stderr = True
    events[0].time.FromMicroseconds(1_700_000_000_000_001)
    await journal.append(RANK1, events)
    first, second, third = await journal.read(0)
    line, point = log_line(first), metric_point(second)
    assert line is not None
    assert (line.text, line.rank, line.is_stderr, line.offset) == ("line 1", 1, True, 1)
    assert line.time.ToMicroseconds() == 1_700_000_000_000_001
    assert point is not None
    assert (point.step, dict(point.values)) == (3, {"loss": 0.5})
    assert (metric_point(first), log_line(second), log_line(third), metric_point(third)) == (None,) * 4


@given(st.lists(st.integers(1, 40)))
@settings(max_examples=200, deadline=None)
def test_sequences_are_a_set(numbers: list[int]) -> None:
    stored = Sequences()
    for number in numbers:
        stored.add(number)
    assert {number for number in range(50) if number in stored} == set(numbers)
    runs = list(stored)
    assert all(begin <= end for begin, end in runs)
    assert all(end + 1 < begin for (_, end), (begin, _) in itertools.pairwise(runs))


def test_a_journal_file_says_how_much_a_page_holds() -> None:
    assert journal_file._PAGE_BYTES < 4 << 20
