"""What `--restarts` says."""

import pytest
import typer

from lepton.cli.restart_rules import restart_rules
from lepton.trainer.v1.job_pb2 import JobError


def test_each_class_has_its_number() -> None:
    rules = restart_rules(["oom-device=0", "COMM_TIMEOUT=20"])
    assert [(getattr(each, "class"), each.max_restarts) for each in rules] == [
        (JobError.OOM_DEVICE, 0),
        (JobError.COMM_TIMEOUT, 20),
    ]
    assert rules[0].HasField("max_restarts")


@pytest.mark.parametrize(
    "text", ["", "oom=1", "class-unspecified=1", "hang", "hang=", "hang=-1", "hang=1001", "hang=1.5"]
)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        restart_rules([text])


def test_a_class_may_be_given_once() -> None:
    with pytest.raises(typer.BadParameter, match="twice"):
        restart_rules(["hang=1", "HANG=2"])
