"""The simulator as a command: a trace of one's own in, a table out."""

import json
from pathlib import Path

import pytest

from services.scheduler.simulator import trace
from services.scheduler.simulator.__main__ import main
from services.scheduler.simulator.discipline import DISCIPLINES

TRACE = """\
submitted,duration_s,devices,slices,min_slices,project,priority,estimate_s
2026-01-01T00:00:10,30,1,1,,a,,
2026-01-01T00:00:00,100,2,1,,a,,
2026-01-01T00:00:20,10,0.5,2,1,b,3,60
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "trace.csv"
    written.write_text(TRACE)
    return written


def figures(capsys: pytest.CaptureFixture[str], *given: str) -> dict[str, dict[str, float]]:
    assert main([*given, "--json", "-"]) == 0
    return {each["policy"]: each for each in json.loads(capsys.readouterr().out)["policies"]}


def test_a_trace_is_read_in_the_order_of_submission(path: Path) -> None:
    first, second, third = trace.read(path)
    assert (first.at, second.at, third.at) == (0.0, 10.0, 20.0)
    assert (first.duration_s, first.demand.device_milli, first.slices, first.estimate_s) == (100.0, 2000, 1, 100.0)
    assert (third.demand.device_milli, third.slices, third.min_slices) == (500, 2, 1)
    assert (third.project, third.priority, third.estimate_s) == ("b", 3, 60.0)


def test_the_planner_is_told_the_estimate_and_not_the_truth(path: Path) -> None:
    *_, told = trace.jobs(trace.read(path), pool="pools/p", knows_duration=True)
    *_, untold = trace.jobs(trace.read(path), pool="pools/p", knows_duration=False)
    assert (told.work_s, told.workload.expected_duration_s) == (10.0, 60.0)
    assert untold.workload.expected_duration_s == 0.0


def test_a_trace_is_run_as_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # One device; the first runs until 10, then the order decides: 30 and 5 s are left.
    path = tmp_path / "trace.csv"
    path.write_text("submitted,duration_s\n0,10\n1,30\n2,5\n")
    given = (str(path), "--nodes", "1", "--devices", "1", "--interval", "0", "--policies", "fifo,sjf")
    found = figures(capsys, *given)
    assert found["fifo"]["mean_jct_s"] == pytest.approx((10 + (40 - 1) + (45 - 2)) / 3, abs=1e-3)
    assert found["sjf"]["mean_jct_s"] == pytest.approx((10 + (15 - 2) + (45 - 1)) / 3, abs=1e-3)
    assert {each["makespan_s"] for each in found.values()} == {45.0}


def test_all_policies_stand_in_one_table(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "figures.json"
    given = (str(path), "--nodes", "2", "--devices", "2", "--policies", ",".join(DISCIPLINES), "--json", str(written))
    assert main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [*DISCIPLINES]
    assert {each["finished"] for each in json.loads(written.read_text())["policies"]} == {3}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("submitted\n0\n", "duration_s"),
        ("submitted,duration_s,gpus\n0,1,1\n", "unknown column gpus"),
        ("submitted,duration_s\n0,1\n1,soon\n", "line 3"),
        ("submitted,duration_s\nyesterday,1\n", "line 2"),
        ("submitted,duration_s\n0,0\n", "must be positive"),
        ("submitted,duration_s,devices\n0,1,1.5\n", "whole number"),
        ("submitted,duration_s,slices,min_slices\n0,1,2,3\n", "min_slices <= slices"),
        ("submitted,duration_s,devices\n0,1,64\n", "never end"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_reason(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    assert main([str(path), "--nodes", "1", "--policies", "fifo"]) == 1
    assert says in capsys.readouterr().err


def test_a_missing_file_and_an_unknown_policy_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere.csv", "--nodes", "1"]) == 1
    with pytest.raises(SystemExit):
        main(["/nowhere.csv", "--nodes", "1", "--policies", "guess"])
    assert "guess" in capsys.readouterr().err


def test_the_help_names_every_column_and_policy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"{name}:" in text for name in (*trace.COLUMNS, *DISCIPLINES))
