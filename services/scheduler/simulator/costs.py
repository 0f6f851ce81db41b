"""What starting, stopping and starting again cost a job."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds that pass without work being done."""

    start_s: float = 0.0  # from its placement to its slices being up
    restart_s: float = 30.0  # more, when it goes on from a checkpoint
    checkpoint_s: float = 5.0  # to write one when it is stopped with grace: less grace than this, and none is written
    checkpoint_every_s: float = 3600.0  # written beside the work, at no cost; 0 = never
