"""The trace bench: one table from one command, the same every time."""

import json
from pathlib import Path

import pytest

from bench import philly


@pytest.fixture(autouse=True)
def _no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEPTON_TEST_DATA", raising=False)


def compare(capsys: pytest.CaptureFixture[str], *given: str) -> tuple[dict[str, dict[str, float]], str]:
    philly.main(["--processes", "1", *given])
    printed = capsys.readouterr()
    return json.loads(printed.out)["policies"], printed.err


def test_disciplines_and_yardsticks_stand_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    policies, text = compare(capsys, "--limit", "300", "--policies", "fifo,sjf", "--load", "1.0")
    assert list(policies) == ["fifo", "sjf", *philly.YARDSTICKS]
    for name in ("fifo", "sjf"):
        assert policies[name]["finished"] == 300
        assert policies[name]["mean_jct_s"] >= policies["SRSF oracle"]["mean_jct_s"] * 0.99
    assert policies["fifo"]["vs_fifo"] == 1.0
    assert text.count("\n| ") == 1 + len(policies)


def test_the_same_command_gives_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    timing = ("wall_s", "cpu_s", "plan_cpu_s", "plan_mean_ms", "plan_longest_ms")
    command = ("--limit", "200", "--policies", "fair", "--seed", "5", "--no-yardsticks")
    first, second = compare(capsys, *command)[0]["fair"], compare(capsys, *command)[0]["fair"]
    assert {key: first[key] for key in first if key not in timing} == {
        key: second[key] for key in second if key not in timing
    }


def test_a_trace_file_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["timestamp,duration,num_gpus,gpu_time,cluster"]
    lines += [f"2017-10-09 07:{at:02}:00,600.0,{1 + at % 2},0,vc{at % 3}" for at in range(60)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(lines) + "\n")
    found, _ = compare(capsys, "--jobs", str(path), "--nodes", "1", "--devices", "2", "--policies", "fifo")
    assert found["fifo"]["jobs"] == found["fifo"]["finished"] == 60
    # One of two devices idles beside every job of one device, since nothing passes that of two behind it.
    assert found["fifo"]["utilisation_pct"] == pytest.approx(75.0, abs=1.0)


def test_an_unknown_policy_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        philly.main(["--policies", "guess"])
    assert "guess" in capsys.readouterr().err
