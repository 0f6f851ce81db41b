"""What report lines mean, and that nonsense is refused instead of believed."""

from typing import Any

import pytest

from lepton.errors import InvalidArgument
from services.agent.rank_line import Output, RankEvent, read

DIGEST = "sha256:" + "a" * 64


def test_metrics_become_a_measurement() -> None:
    meant = read({"seq": 1, "kind": "metrics", "step": 5, "epoch": 1, "values": {"loss": 0.5}, "progress": 0.25})
    assert isinstance(meant, RankEvent)
    said = meant.event.measurement
    assert (said.step, said.epoch, said.progress, dict(said.values)) == (5, 1, 0.25, {"loss": 0.5})
    assert meant.commit_id == ""


def test_a_checkpoint_and_a_package_wait_for_an_answer() -> None:
    checkpoint = read({"kind": "checkpoint", "id": "checkpoint-5", "step": 5, "manifest": DIGEST, "metrics": {}})
    package = read({"kind": "package", "id": "package", "digest": DIGEST, "metrics": {"accuracy": 1}})
    assert isinstance(checkpoint, RankEvent)
    assert isinstance(package, RankEvent)
    assert (checkpoint.commit_id, checkpoint.event.checkpoint.manifest) == ("checkpoint-5", DIGEST)
    assert (package.commit_id, package.event.package.metrics["accuracy"]) == ("package", 1.0)


def test_a_pace_and_a_checkpoint_that_could_not_be_written_are_told() -> None:
    pace = read({"kind": "pace", "step": 7, "step_s": 0.5, "busy_s": 0.25, "idle": True})
    lost = read({"kind": "checkpoint_failed", "why": "No space left on device"})
    assert isinstance(pace, RankEvent)
    assert isinstance(lost, RankEvent)
    assert (pace.event.pace.step, pace.event.pace.step_s, pace.event.pace.busy_s) == (7, 0.5, 0.25)
    assert lost.event.checkpoint_failed == "No space left on device"


def test_an_artifact_is_an_output_of_the_slice() -> None:
    assert read({"kind": "artifact", "name": "m", "digest": DIGEST}) == Output(name="m", digest=DIGEST)


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"kind": "unknown"},
        {"kind": "metrics", "step": "many"},
        {"kind": "pace", "step": 1, "step_s": "nan"},
        {"kind": "pace", "step": 1, "busy_s": -1},
        {"kind": "pace"},
        {"kind": "checkpoint_failed"},
        {"kind": "metrics", "step": 1, "values": {"loss": "low"}},
        {"kind": "metrics", "step": 10**30},
        {"kind": "metrics", "step": 1, "values": [1]},
        {"kind": "checkpoint", "step": 1, "manifest": DIGEST},
        {"kind": "output", "name": "m", "digest": "sha256:../../etc/passwd"},
        {"kind": "output", "name": 3, "digest": DIGEST},
        {"kind": "state"},
    ],
)
def test_nonsense_is_refused(line: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        read(line)
