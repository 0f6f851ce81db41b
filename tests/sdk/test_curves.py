"""Curves of jobs: what counts after a restart, what is best, how jobs differ, sparklines, pictures, event files."""

import json
import math
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.curves import Curves, compare, is_better_when_small, sparkline
from lepton.curves import plot as plotting
from lepton.curves.event_files import RunFolder
from lepton.errors import FailedPrecondition
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2 import MetricPoint

BLOCKS = "▁▂▃▄▅▆▇█"


def point(offset: int, step: int, generation: int = 1, **values: float) -> MetricPoint:
    made = MetricPoint(offset=offset, step=step, epoch=step // 10, generation=generation, values=values)
    made.time.FromMicroseconds(1_700_000_000_000_000 + offset * 1_000_000)
    return made


def curves(job_id: str = "digits", points: Sequence[MetricPoint] = (), **fields: Any) -> Curves:
    return Curves(job=Job(name=f"projects/acme/jobs/{job_id}", uid=f"uid-{job_id}", **fields), points=points)


def restarted() -> Curves:
    """Stopped behind step 30 and gone on with from step 20."""
    first = [point(at, 10 * at, loss=1.0 / at, accuracy=0.1 * at) for at in (1, 2, 3)]
    second = [point(at, 10 * (at - 1), 2, loss=1.0 / at) for at in (4, 5, 6)]
    return curves(points=[*first, *second, point(7, 50, 2, held_out_loss=0.3, samples_per_s=100.0)])


def test_what_a_later_generation_did_again_counts_once() -> None:
    one = restarted()
    loss = one["loss"]
    assert (list(loss.steps), one.restarts) == ([10, 20, 30, 40, 50], [(2, 30)])
    assert loss.values[2] == pytest.approx(1 / 4)  # of generation 2
    assert loss.epochs[-1] == 5
    assert loss.minutes == pytest.approx([0, 1 / 60, 3 / 60, 4 / 60, 5 / 60])
    assert one.names == ["accuracy", "held_out_loss", "loss", "samples_per_s"]
    assert [each.name for each in one] == one.names
    assert ("loss" in one, "none" in one) == (True, False)
    with pytest.raises(KeyError):
        one["none"]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=6))
def test_steps_of_what_counts_never_go_back(runs: list[tuple[int, int]]) -> None:
    points = [
        point(100 * number + at, at, number + 1, loss=1.0)
        for number, (begin, length) in enumerate(runs)
        for at in range(begin, begin + length)
    ]
    steps = list(curves(points=points)["loss"].steps)
    assert steps == sorted(set(steps))


def test_the_best_is_the_smallest_loss_and_the_largest_accuracy() -> None:
    points = [point(at, at, loss=loss, accuracy=loss) for at, loss in enumerate((3.0, 1.0, math.nan, 2.0), 1)]
    one = curves(points=points)
    assert (one["loss"].best, one["accuracy"].best) == ((2, 1.0), (1, 3.0))
    assert one["loss"].last == 2.0
    assert math.isnan(curves(points=[point(1, 1, loss=math.nan)])["loss"].best[1])
    assert [is_better_when_small(name) for name in ("validation_loss", "rmse", "accuracy", "lossless")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_jobs_are_compared_by_what_differs() -> None:
    small, large = (
        Job(name=f"projects/acme/jobs/{name}", state=Job.SUCCEEDED, metrics={"loss": loss, "accuracy": 0.9})
        for name, loss in (("small", 0.5), ("large", 0.25))
    )
    for job, rate in ((small, 0.01), (large, 0.1)):
        job.recipe.name, job.recipe.learning_rate, job.workers.count = "image_classifier", rate, 4
        job.start_time.FromSeconds(100)
        job.end_time.FromSeconds(160)
    large.recipe.model.update({"features": 32, "layers": [1, 2]})
    large.restarts = 1
    points = [point(1, 10, loss=0.6, samples_per_s=50.0), point(2, 20, loss=0.7, samples_per_s=70.0)]
    found = compare([Curves(job=small, points=points), Curves(job=large, points=[])])
    assert found.jobs == ["small", "large"]
    assert found.settings == {
        "recipe.learning_rate": ["0.01", "0.1"],
        "recipe.model.features": ["-", "32"],
        "recipe.model.layers": ["-", "1,2"],
    }
    assert found.metrics == {"accuracy": [0.9, 0.9], "loss": [0.5, 0.25]}
    best = found.best["loss"]
    assert best[0] is not None
    assert (best[0].value, best[0].step, best[1]) == (0.6, 10, None)
    assert (found.duration_s, found.samples_per_s, found.restarts) == ([60.0, 60.0], [60.0, None], [0, 1])


def test_a_sparkline_shows_the_shape() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == BLOCKS
    assert sparkline([7.0, 0.0], 8) == "█▁"
    assert sparkline([5.0] * 30, 10) == "▁" * 10
    assert sparkline([1.0, math.nan, 2.0, math.inf]) == "▁×█×"
    assert (sparkline([]), sparkline([1.0], 0)) == ("", "")
    assert len(sparkline(list(range(1000)), 16)) == 16


@given(st.lists(st.floats()), st.integers(1, 40))
def test_a_sparkline_is_made_of_anything(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(BLOCKS) | {"×"}


def events(folder: Path) -> Iterator[Any]:
    """The events of a run folder as TensorBoard reads them: records with their lengths and checksums."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    # In the order of their making, as TensorBoard takes them.
    for file in sorted(folder.glob("events.out.tfevents.*"), key=lambda each: each.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
            body, data = data[12 : 12 + length], data[12 + length + 4 :]
            assert len(body) == length
            yield Event.FromString(body)


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, pytest.approx(value.simple_value))
        for event in events(folder)
        for value in event.summary.value
    ]


def test_event_files_hold_every_point_and_the_restart(tmp_path: Path) -> None:
    one = restarted()
    with RunFolder(tmp_path, one.job) as folder:
        folder.add(one.points)
        assert len(scalars(folder.path)) == 11  # on disk before it is closed
    found = scalars(tmp_path / "digits")
    assert ("loss", 10, 1.0) in found
    assert ("accuracy", 20, 0.2) in found
    starts = [event.step for event in events(folder.path) if event.HasField("session_log")]
    assert starts == [30]
    times = [event.wall_time for event in events(folder.path) if event.summary.value]
    assert times == sorted(times)
    assert times[0] == pytest.approx(1_700_000_001.0)


def test_writing_again_adds_only_what_is_new(tmp_path: Path) -> None:
    one = restarted()
    for upto in (2, 2, 5, len(one.points)):
        with RunFolder(tmp_path, one.job) as folder:
            folder.add(one.points[:upto])
    assert len(scalars(folder.path)) == 11
    assert [event.step for event in events(folder.path) if event.HasField("session_log")] == [30]
    assert len(list(folder.path.glob("events.*"))) == 3
    with RunFolder(tmp_path, one.job) as folder:
        assert folder.offset == 7


def test_another_job_of_the_same_name_is_not_mixed_in(tmp_path: Path) -> None:
    one = restarted()
    with RunFolder(tmp_path, one.job) as folder:
        folder.add(one.points)
    other = Job(name=one.job.name, uid="another")
    with pytest.raises(FailedPrecondition, match="RUN_FOLDER_TAKEN"):
        RunFolder(tmp_path, other)
    (folder.path / "lepton.json").write_text("{")  # whatever happened to it: it is written anew
    with RunFolder(tmp_path, other) as folder:
        assert folder.offset == 0
    assert json.loads((folder.path / "lepton.json").read_bytes() if folder.offset else b"{}") == {}


@pytest.mark.parametrize("library", ["tensorboardX", "matplotlib"])
def test_a_missing_library_is_named_with_the_command(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == library or name.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    one = restarted()
    use = {"matplotlib": lambda: plotting.plot([one]), "tensorboardX": lambda: RunFolder(tmp_path, one.job)}
    with pytest.raises(FailedPrecondition, match=r"pip install 'lepton-sdk\[plots\]'"):
        use[library]()


def test_a_plot_has_an_axes_for_each_metric_and_a_line_for_each_job(tmp_path: Path) -> None:
    one, other = restarted(), curves("other", [point(at, at, loss=2.0 / at) for at in range(1, 50)])
    figure = plotting.plot([one, other])
    loss, accuracy = figure.axes
    labels = {"digits: loss", "digits: held_out_loss", "other: loss"}
    assert {text.get_text() for text in loss.get_legend().get_texts()} == labels
    assert [line.get_linestyle() for line in loss.get_lines() if str(line.get_label()) in labels] == ["-", "--", "-"]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["digits: accuracy"]
    (mark,) = [text for text in loss.texts if text.get_text() == "gen 2"]  # the generation
    assert mark.xy[0] == 30
    plotting.save(figure, tmp_path / "curves.png")
    assert [each.name for each in tmp_path.iterdir()] == ["curves.png"]
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_plot_by_time_of_one_metric_marks_what_is_no_number(tmp_path: Path) -> None:
    points = [point(1, 1, loss=1.0), point(2, 2, loss=math.nan), point(61, 3, loss=0.5, other=3.0)]
    figure = plotting.plot([curves(points=points)], metrics=["loss"], by="minute", log=True)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    line, cross = axes.get_lines()
    assert list(line.get_xdata()) == pytest.approx([0, 1 / 60, 1.0])
    assert (cross.get_marker(), list(cross.get_ydata())) == ("x", [1.0])
    assert "minutes" in axes.get_xlabel()
    only_other = plotting.plot([curves(points=[point(1, 1, perplexity=3.0, samples_per_s=1.0)])])
    assert [axes.get_ylabel() for axes in only_other.axes] == ["perplexity"]


@pytest.mark.parametrize("metrics", [["none"], []])
def test_what_was_not_measured_is_not_plotted(metrics: list[str]) -> None:
    points = [point(1, 1, loss=1.0)] if metrics else []
    with pytest.raises(FailedPrecondition, match="NOTHING_MEASURED|measured nothing"):
        plotting.plot([curves(points=points)], metrics=metrics)
