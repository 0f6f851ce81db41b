"""What kinds of failure there are, and which of several that come together is the cause; pure.

The agent names the class of each rank that ends badly, the scheduler decides by it what follows, the trainer shows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

WINDOW_S: Final = 60.0
"""Victims may be noticed so much earlier than what they are victims of, and are still its victims."""


class FailureClass(StrEnum):
    """The names of `lepton.trainer.v1.JobError.Class`."""

    USER_ERROR = "USER_ERROR"
    OOM_HOST = "OOM_HOST"
    OOM_DEVICE = "OOM_DEVICE"
    COMM_TIMEOUT = "COMM_TIMEOUT"
    NODE_LOST = "NODE_LOST"
    PREEMPTED = "PREEMPTED"
    DATA = "DATA"
    CANCELLED = "CANCELLED"
    HANG = "HANG"
    STORAGE = "STORAGE"


FREE: Final = frozenset({FailureClass.NODE_LOST, FailureClass.PREEMPTED})
"""What is not the program's doing: it costs no restarts unless a policy says so."""


LESS_MEMORY: Final = "halve --batch-size or double gradient_accumulation_steps"

ADVICE: Final[Mapping[FailureClass, str]] = {
    FailureClass.USER_ERROR: "the program failed by itself: see the last lines of its output (`lepton jobs logs`)",
    FailureClass.OOM_HOST: f"{LESS_MEMORY}, or ask for more memory per worker",
    FailureClass.OOM_DEVICE: f"{LESS_MEMORY}; or shard the model (parallelism FSDP, tensor or pipeline)",
    FailureClass.COMM_TIMEOUT: "ranks lost each other: look at the rank that ended first and at the network between "
    "the nodes; for collectives that are only slow, raise the timeout of init_process_group",
    FailureClass.NODE_LOST: "nothing needs to be done: the gang goes on elsewhere from its newest checkpoint",
    FailureClass.PREEMPTED: "nothing needs to be done: it goes on from its newest checkpoint when there is room again",
    FailureClass.DATA: "check the dataset: that the digest is right, that every file the program opens is in it",
    FailureClass.CANCELLED: "it was stopped on request; submit it again to go on",
    FailureClass.HANG: "see where the rank stood, in the last lines of its output; if its steps are so slow, raise "
    "failure_policy.hang_timeout",
    FailureClass.STORAGE: "free space where the artifacts and the node's work folders lie, or keep fewer checkpoints "
    "(checkpoint_policy.keep_latest)",
}
"""What to do about each class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One failure of a gang, as it was noticed."""

    failure_class: str
    noticed_s: float  # of the wall clock
    step: int = 0
    waited: bool = False  # it stood in a collective, waiting for others

    @property
    def may_be_collateral(self) -> bool:
        """Whether it looks like the consequence of another failure."""
        return self.waited or self.failure_class == FailureClass.COMM_TIMEOUT


def first_cause(sightings: Sequence[Sighting]) -> int:
    """Which failure of a generation is to blame: the first that is not the consequence of another one.

    A rank that lost its peers often ends before the end of the peer is noticed, so the order alone does not tell. Of
    ranks that hang the one that is behind is to blame: the others wait for it.
    """
    order = sorted(range(len(sightings)), key=lambda at: (sightings[at].noticed_s, at))
    first = order[0]
    latest_s = sightings[first].noticed_s + WINDOW_S
    roots = [at for at in order if not sightings[at].may_be_collateral and sightings[at].noticed_s <= latest_s]
    candidates = roots or order
    chosen = candidates[0]
    if sightings[chosen].failure_class == FailureClass.HANG:
        hanging = [at for at in candidates if sightings[at].failure_class == FailureClass.HANG]
        chosen = min(hanging, key=lambda at: (sightings[at].step, sightings[at].noticed_s, at))
    return chosen
