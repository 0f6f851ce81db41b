"""Which of several failures is the cause."""

import pytest

from chassis.failures import WINDOW_S, FailureClass, Sighting, first_cause
from lepton.trainer.v1.job_pb2 import JobError

USER, COMM, HANG = FailureClass.USER_ERROR, FailureClass.COMM_TIMEOUT, FailureClass.HANG


def seen(failure_class: str, at: float, step: int = 0, *, waited: bool = False) -> Sighting:
    return Sighting(failure_class=failure_class, noticed_s=at, step=step, waited=waited)


def test_the_names_are_those_that_users_see() -> None:
    assert set(FailureClass) == set(JobError.Class.keys()) - {"CLASS_UNSPECIFIED"}


@pytest.mark.parametrize(
    ("sightings", "expected"),
    [
        ([seen(USER, 5.0)], 0),
        ([seen(USER, 5.0), seen(USER, 4.0)], 1),
        ([seen(COMM, 1.0), seen(USER, 2.0), seen(COMM, 1.5)], 1),  # the victims end before the cause is noticed
        ([seen(COMM, 1.0), seen(COMM, 0.5)], 1),  # a network, and nobody's fault
        ([seen(COMM, 0.0), seen(USER, WINDOW_S + 1)], 0),  # too late to be the cause
        ([seen(HANG, 1.0, 7, waited=True), seen(HANG, 2.0, 7)], 1),  # the one that waits is not to blame
        ([seen(HANG, 1.0, 7), seen(HANG, 1.1, 6)], 1),  # nor the one that is ahead
        ([seen(HANG, 1.0, 7), seen(USER, 0.5, 9)], 1),
        ([seen(USER, 0.0), seen(USER, 0.0)], 0),
    ],
)
def test_the_first_that_is_not_the_consequence_of_another_is_to_blame(sightings: list[Sighting], expected: int) -> None:
    assert first_cause(sightings) == expected
