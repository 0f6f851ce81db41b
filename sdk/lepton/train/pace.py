"""How fast a rank steps, told every few seconds: so the agent notices one that hangs, and the trainer one that lags."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

from lepton.train.sampler import Batch

EVERY_S: Final = 2.0
_PART: Final = 4  # of a timeout that is shorter than so many times EVERY_S


class Told(Protocol):
    """Who is told."""

    def pace(self, *, step: int, step_s: float, busy_s: float, idle: bool = False) -> None:
        """Takes a rank's newest step, its seconds a step, and those of them that it did not wait for others."""
        ...


def every_s(hang_timeout_s: float) -> float:
    """How often the pace is told: often enough that a rank that steps never seems to hang; 0 = no own timeout."""
    return min(EVERY_S, hang_timeout_s / _PART) if hang_timeout_s > 0 else EVERY_S


class Pace:
    """Counts the steps of one rank as its program goes through them. `clock` and `used` give seconds that only rise.

    What a rank computes by itself is taken to be its processor time where there is no device: a rank that waits for
    others uses none. With a device it is not known.
    """

    def __init__(
        self,
        told: Told,
        *,
        hang_timeout_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
        has_device: Callable[[], bool] | None = None,
    ) -> None:
        self._told, self._clock, self._used = told, clock, used
        self._has_device = has_device or _uses_a_device
        self._every_s = every_s(hang_timeout_s)
        self._step = 0
        self._steps = 0  # since it was told
        self._since_s, self._used_then_s = clock(), used()
        self._is_new = True

    def stepped(self, step: int) -> None:
        """The program is done with this step; one that is told again is not counted again."""
        if step <= self._step and not self._is_new:
            return
        self._steps += 1 if self._is_new else step - self._step
        self._step = step
        if self._is_new or self._clock() - self._since_s >= self._every_s:
            self._tell(idle=False)

    def rests(self) -> None:
        """The program has no more steps for now: nobody needs to wait for the next."""
        self._tell(idle=True)

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; that the next one is asked for means that the step of the one before is done."""
        for batch in batches:
            yield batch
            self.stepped(batch.step)
        self.rests()

    def _tell(self, *, idle: bool) -> None:
        now_s, used_s = self._clock(), self._used()
        step_s = busy_s = 0.0
        if self._steps and not self._is_new:  # what came before the first step is no part of a step
            step_s = (now_s - self._since_s) / self._steps
            busy_s = 0.0 if self._has_device() else min((used_s - self._used_then_s) / self._steps, step_s)
        self._told.pace(step=self._step, step_s=step_s, busy_s=busy_s, idle=idle)
        self._steps, self._since_s, self._used_then_s, self._is_new = 0, now_s, used_s, False


def _uses_a_device() -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
