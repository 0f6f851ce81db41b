"""What the trainer says of jobs that run: when they will be done, how busy their ranks are."""

from collections.abc import Sequence
from typing import Any

import pytest

from lepton.internal.v1 import run_report_pb2 as report
from lepton.trainer.v1.job_pb2 import Job
from services.trainer import gauge
from services.trainer.gauge import Gauge, Reading, utilization


def measured(at_s: float, step: int, total_steps: int = 100, **fields: Any) -> report.RunEvent:
    event = report.RunEvent(measurement=report.Measurement(step=step, total_steps=total_steps, **fields))
    event.time.FromMicroseconds(int(at_s * 1e6))
    return event


def pace(at_s: float, step_s: float, busy_s: float) -> report.RunEvent:
    event = report.RunEvent(pace=report.RankPace(step=1, step_s=step_s, busy_s=busy_s))
    event.time.FromMicroseconds(int(at_s * 1e6))
    return event


def batch(events: Sequence[report.RunEvent], generation: int = 1, rank: int = 0) -> report.ReportRunRequest:
    return report.ReportRunRequest(job="projects/p/jobs/j", generation=generation, rank=rank, events=events)


def test_the_time_that_is_left_follows_from_the_steps() -> None:
    one = Gauge()
    assert one.hear("j", batch([measured(0, 10)])).eta_s == 0.0
    assert one.hear("j", batch([measured(5, 20)])).eta_s == pytest.approx(40.0)
    assert one.hear("other", batch([measured(5, 20)])).eta_s == 0.0
    one.forget("j")
    assert one.hear("j", batch([measured(10, 30)])).eta_s == 0.0


def test_without_a_number_of_steps_it_follows_from_the_fraction() -> None:
    one = Gauge()
    one.hear("j", batch([measured(0, 1, 0, progress=0.25)]))
    assert one.hear("j", batch([measured(10, 2, 0, progress=0.5)])).eta_s == pytest.approx(20.0)


def test_a_new_generation_begins_anew_and_an_old_one_is_not_heard() -> None:
    one = Gauge()
    one.hear("j", batch([measured(0, 10), measured(10, 20)]))
    assert one.hear("j", batch([measured(100, 10)], generation=2)).eta_s == 0.0
    assert one.hear("j", batch([measured(101, 90), pace(101, 1, 1)], generation=1)) == Reading()
    assert one.hear("j", batch([measured(110, 20)], generation=2)).eta_s == pytest.approx(80.0)


def test_utilization_is_the_mean_over_the_ranks_that_were_heard_lately() -> None:
    one = Gauge()
    one.hear("j", batch([pace(0, 0.1, 0.1)], rank=2))  # silent since
    one.hear("j", batch([pace(50, 0.1, 0.05)], rank=0))
    assert one.hear("j", batch([pace(51, 0.1, 0.1)], rank=1)).utilization == pytest.approx(0.75)
    assert utilization({}) == 0.0
    assert utilization({0: (0.0, report.RankPace(step_s=0.1))}) == 0.0  # busy is not known
    assert utilization({0: (0.0, report.RankPace(step_s=0.1, busy_s=0.2))}) == 1.0


def test_a_reading_is_shown_and_recorded_and_what_is_unknown_stays() -> None:
    job = Job()
    gauge.show(Reading(eta_s=30, utilization=0.5), job)
    gauge.show(Reading(), job)
    assert (job.progress.eta_s, job.progress.utilization) == (30, 0.5)
    job.progress.fraction = 1.0
    gauge.show(Reading(), job)
    assert job.progress.eta_s == 0
    events = [measured(0, 1, values={"loss": 1.0}), measured(0, 2, values={"utilization": 0.1}), pace(0, 1, 1)]
    gauge.record(Reading(utilization=0.5), events)
    assert [dict(event.measurement.values) for event in events[:2]] == [
        {"loss": 1.0, "utilization": 0.5},
        {"utilization": 0.1},
    ]
    assert events[2].WhichOneof("event") == "pace"


def test_only_so_many_jobs_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauge, "_JOBS", 2)
    one = Gauge()
    for uid in "abc":
        one.hear(uid, batch([measured(0, 10)]))
    assert one.hear("c", batch([measured(10, 20)])).eta_s > 0
    assert one.hear("a", batch([measured(10, 20)])).eta_s == 0
