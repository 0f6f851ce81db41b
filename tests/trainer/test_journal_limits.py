"""Journals that grow too large: they stay bounded, keep both ends, say what is missing, and lose no place."""

import asyncio
import json
import os
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from lepton.internal.v1 import run_report_pb2 as report
from services.trainer.journal import Journal, Limits, Source
from services.trainer.journal_file import JournalFile
from services.trainer.journal_lines import log_line, printed_by, thinned_points

pytestmark = pytest.mark.integration

RANK0, RANK1 = Source(generation=1, rank=0), Source(generation=1, rank=1)
SMALL = Limits(output=40_000, measurements=30_000, events=10_000)


def printed(sequence: int) -> report.RunEvent:
    return report.RunEvent(sequence=sequence, output=report.OutputLine(text=f"line {sequence}"))


def measured(sequence: int, **values: float) -> report.RunEvent:
    return report.RunEvent(
        sequence=sequence, measurement=report.Measurement(step=sequence, values=values or {"loss": 1.0 / sequence})
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "uid.jsonl"


def size_of(path: Path) -> int:
    return path.stat().st_size


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def replace(path: Path, index: int, line: bytes) -> None:
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:index], line, *lines[index + 1 :]]))


async def everything(journal: Journal, offset: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := await journal.read(offset):
        offset = page[-1]["offset"]
        found += page
    return found


async def fill(journal: Journal, count: int, *, size: int = 100) -> None:
    for begin in range(1, count + 1, size):
        await journal.append(RANK0, [printed(number) for number in range(begin, begin + size)])


async def test_the_output_is_bounded_and_says_what_is_missing(path: Path) -> None:
    journal = Journal(path, SMALL)
    await fill(journal, 5000)
    assert size_of(path) < 60_000
    lines = await everything(journal)
    texts = [line["text"] for line in lines]
    (missing,) = [line for line in lines if "dropped_lines" in line]
    assert texts[0] == "line 1"
    assert texts[-1] == "line 5000"
    assert missing["dropped_lines"] + len(lines) - 1 == 5000
    assert "were dropped here" in missing["text"]
    assert str(missing["dropped_lines"]) in missing["text"]
    shown = log_line(missing)
    assert shown is not None
    assert shown.rank == -1
    # The others stand where they stood: the offset of line n is n.
    assert all(line["offset"] == int(line["text"].split()[1]) for line in lines if line is not missing)
    assert not list(path.parent.glob("*.shorter"))


async def test_a_reader_goes_on_where_it_was_over_what_was_dropped(path: Path) -> None:
    journal, reader = Journal(path, SMALL), Journal(path, SMALL)
    await fill(journal, 200)
    page = await reader.read(0)
    offset = page[-1]["offset"]
    assert offset == 200
    await fill(journal, 5000)
    rest = await everything(reader, offset)
    assert "dropped_lines" in rest[0]
    assert rest[0]["offset"] > offset
    assert [line["offset"] for line in rest] == sorted(line["offset"] for line in rest)
    assert rest[-1]["text"] == "line 5000"


async def test_what_was_dropped_is_not_taken_in_again(path: Path) -> None:
    await fill(Journal(path, SMALL), 5000)
    before = await everything(Journal(path, SMALL))
    again = Journal(path, SMALL)  # the trainer was restarted, and an agent sends once more
    await again.append(RANK0, [printed(number) for number in range(2000, 2100)])
    assert await everything(again) == before
    await again.append(RANK0, [printed(5001)])
    assert (await everything(again))[-1]["offset"] == 5001


async def test_two_processes_shorten_one_file_and_lose_nothing_new(path: Path) -> None:
    first, second = Journal(path, SMALL), Journal(path, SMALL)
    for begin in range(1, 3000, 50):
        numbers = range(begin, begin + 50)
        await asyncio.gather(
            first.append(RANK0, [printed(number) for number in numbers]),
            second.append(RANK1, [printed(number) for number in numbers]),
        )
    assert await everything(first) == await everything(second) == await everything(Journal(path, SMALL))
    lines = await everything(first)
    assert lines[-1]["offset"] == 6000
    (missing,) = [line for line in lines if "dropped_lines" in line]
    assert missing["dropped_lines"] + len(lines) - 1 == 6000
    newest = {(line["rank"], line["text"]) for line in lines[-100:]}
    assert {(0, "line 3000"), (1, "line 3000")} <= newest


async def test_measurements_are_thinned_and_not_displaced_by_output(path: Path) -> None:
    journal = Journal(path, SMALL)
    for begin in range(1, 1001, 20):
        events = [
            measured(number, **{"held_out_loss" if number % 100 == 0 else "loss": 9.0 if number == 555 else 1.0})
            for number in range(begin, begin + 20)
        ]
        await journal.append(RANK1, events)
        await journal.append(RANK0, [printed(at) for at in range(10 * begin, 10 * begin + 200)])
    points = await journal.measured(0)
    losses = {point.step: point.values["loss"] for point in points if "loss" in point.values}
    held_out = [point.step for point in points if "held_out_loss" in point.values]
    assert (min(losses), max(losses), losses[555]) == (1, 999, 9.0)
    assert (held_out[0], held_out[-1]) == (100, 1000)
    assert size_of(path) < 100_000
    assert 50 < len(points) < 1000


@pytest.mark.parametrize(("names", "size"), [(1, 1000), (500, 50)])
async def test_measurements_of_any_kind_stay_bounded(path: Path, names: int, size: int) -> None:
    journal = Journal(path, SMALL)
    for number in range(1, 301):  # with ever new names, or with very many
        values = {f"{'long' * 50}-{number % names}-{at}": float(at) for at in range(size // 50)}
        await journal.append(RANK0, [measured(number, **values)])
        assert size_of(path) < 2 * SMALL.measurements
    points = await journal.measured(0)
    assert points[-1].step == 300
    assert len(points) > 1


async def test_failures_are_remembered_when_their_lines_are_dropped(path: Path) -> None:
    tiny = Limits(output=10_000, measurements=10_000, events=400)
    journal = Journal(path, tiny)
    await journal.append(RANK0, [report.RunEvent(sequence=1, failure=report.RankFailure(message="no"))])
    for number in range(2, 40):
        await journal.append(RANK0, [report.RunEvent(sequence=number, phase="training")])
    assert not any(line.get("kind") == "failure" for line in await everything(journal))
    async with asyncio.timeout(5):
        await Journal(path, tiny).failure_told(1)


async def test_a_disk_that_is_full_leaves_the_journal_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    journal = Journal(path, SMALL)
    monkeypatch.setattr(Path, "rename", no_space)
    await fill(journal, 2000)
    assert len(await everything(journal)) == 2000
    monkeypatch.undo()
    await fill(journal, 2100)
    assert len(await everything(journal)) < 1500


@pytest.mark.parametrize("damage", [b"\0" * 40 + b"\n", b'{"text":"half\n', b"[1]\n"])
async def test_a_damaged_line_keeps_its_place_and_hides_no_other(path: Path, damage: bytes) -> None:
    await fill(Journal(path), 10, size=10)
    replace(path, 4, damage)
    journal = Journal(path)
    found = await everything(journal)
    assert [line["offset"] for line in found] == list(range(1, 11))
    assert [line.get("text") for line in found][3:6] == ["line 4", None, "line 6"]
    await journal.append(RANK0, [printed(11)])
    assert (await everything(journal))[-1]["text"] == "line 11"


async def test_a_torn_end_behind_a_header_is_repaired(path: Path) -> None:
    writing = Journal(path, SMALL)
    await fill(writing, 3000)
    await writing.append(RANK0, [printed(3001)])
    os.truncate(path, size_of(path) - 7)
    journal = Journal(path, SMALL)
    assert (await everything(journal))[-1]["text"] == "line 3000"
    await journal.append(RANK0, [printed(number) for number in (3000, 3001, 3002)])
    assert [line["text"] for line in (await everything(journal))[-3:]] == ["line 3000", "line 3001", "line 3002"]
    assert all(json.loads(line) for line in lines_of(path))


async def test_a_pace_is_not_kept_but_acknowledged(path: Path) -> None:
    journal = Journal(path)
    assert await journal.append(RANK0, [report.RunEvent(sequence=1, pace=report.RankPace(step=1))]) == 1
    assert await journal.append(RANK0, [printed(2)]) == 2
    assert [line["sequence"] for line in await everything(journal)] == [2]


async def test_a_checkpoint_that_failed_is_told_among_the_output(path: Path) -> None:
    journal = Journal(path)
    await journal.append(RANK0, [report.RunEvent(sequence=1, checkpoint_failed="no space left on device")])
    (line,) = map(log_line, await everything(journal))
    assert line is not None
    assert (line.text, line.is_stderr) == ("[lepton] checkpoint not written: no space left on device", True)


@pytest.mark.parametrize("count", [1, 7, 600, 5000])
async def test_the_last_lines_are_found_from_the_end(path: Path, count: int) -> None:
    journal = Journal(path)
    for begin in range(1, 1501, 30):
        for source, width in ((RANK0, 10), (RANK1, 20)):
            await journal.append(source, [printed(number) for number in range(begin, begin + width)])
            begin += width
    every = [line["text"] for line in await everything(journal)]
    assert [line["text"] for line in await everything(journal, await journal.tail(count, 0, printed_by([])))] == every[
        -count:
    ]
    of_one = [text for text in every if (int(text.split()[1]) - 1) % 30 < 10]
    begin = await journal.tail(count, 0, printed_by([0]))
    assert [line["text"] for line in await everything(journal, begin) if line["rank"] == 0] == of_one[-count:]
    assert await journal.tail(count, 1490, printed_by([])) == max(1490, 1500 - count)


async def test_a_follower_lives_through_a_shortening(path: Path) -> None:
    journal, ended = Journal(path, SMALL), asyncio.Event()

    async def follow() -> list[int]:
        async with aclosing(Journal(path, SMALL).follow(0, ended)) as pages:
            return [line["offset"] async for page in pages for line in page]

    following = asyncio.ensure_future(follow())
    await fill(journal, 4000, size=50)
    ended.set()
    offsets = await following
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == 4000


async def test_a_thinner_record_on_request(path: Path) -> None:
    journal = Journal(path)
    for begin in range(1, 5001, 500):
        await journal.append(RANK0, [measured(number) for number in range(begin, begin + 500)])
    points = await journal.measured(0)
    few = thinned_points(points, 100)
    assert len(points) == 5000
    assert 50 < len(few) <= 100
    assert (few[0].step, few[-1].step) == (1, 5000)


def test_a_journals_bytes_are_divided() -> None:
    limits = Limits.of(64 << 20)
    assert limits == Limits()


def test_a_file_that_was_put_back_from_a_copy_is_read_anew(path: Path) -> None:
    file = JournalFile(path, Limits())
    file.append(RANK0, lambda _: [b'{"generation":1,"rank":0,"sequence":1,"text":"a"}\n'] * 3)
    path.write_bytes(b'{"generation":1,"rank":0,"sequence":9,"text":"z"}\n')
    assert [line["text"] for line in file.read(0)] == ["z"]
