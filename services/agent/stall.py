"""Whether a rank still gets on: judged by its reports alone, and by its stack whether it stands or only waits; pure."""

import re
import signal
from collections.abc import Sequence
from math import inf
from typing import Final

STACK_SIGNAL: Final = signal.SIGUSR2
"""Makes a rank print the stacks of its threads; the launcher has it listen, a rank that starts cold its session."""

SHORTEST_S: Final = 300.0  # without a timeout of the job's own
FACTOR: Final = 10.0  # times its usual step
WAITING_FACTOR: Final = 0.5  # of the timeout: how much longer one that waits for others is let wait for their verdict
_SMOOTHING: Final = 0.3
_SECTION: Final = re.compile(r"(?:Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):")
_FRAME: Final = re.compile(r'File "([^"]+)", line \d+ in (\S+)')
_COLLECTIVE: Final = re.compile(r"/torch/(?:distributed|autograd)/|/lepton/train/(?:gang|parallel/)")


class Progress:
    """The steps of one rank as they are reported; times are of a monotonic clock, in seconds."""

    def __init__(self, timeout_s: float = 0.0) -> None:
        self.step = 0
        self._timeout_s = timeout_s
        self._usual_s = 0.0
        self._since_s: float | None = None  # of its last sign of life; None: nothing is expected of it now

    def stepped(self, step: int, now_s: float, step_s: float = 0.0) -> None:
        """It has done this step, at so many seconds a step lately; a step that is told again is none."""
        if step <= self.step and self._since_s is not None:
            return
        if step_s <= 0 and self._since_s is not None:  # it does not say
            step_s = (now_s - self._since_s) / (step - self.step)
        if step_s > 0:
            self._usual_s = step_s if not self._usual_s else (1 - _SMOOTHING) * self._usual_s + _SMOOTHING * step_s
        self.step, self._since_s = max(step, self.step), now_s

    def said(self, now_s: float) -> None:
        """It has reported something else: it lives."""
        if self._since_s is not None:
            self._since_s = now_s

    def rests(self) -> None:
        """It does something that has no steps; nothing is expected of it until the next one."""
        self._since_s = None

    @property
    def patience_s(self) -> float:
        """How long it may take for a step; for ever while nobody knows how long its steps usually take."""
        usual_s = FACTOR * self._usual_s if self._usual_s else inf
        return self._timeout_s or max(SHORTEST_S, usual_s)

    def stalled_s(self, now_s: float) -> float:
        """For how long it has made no step, once that is too long; else 0."""
        waited_s = 0.0 if self._since_s is None else now_s - self._since_s
        return waited_s if waited_s >= self.patience_s else 0.0


def main_stack(lines: Sequence[str]) -> list[str]:
    """The frames of the main thread in a dump of faulthandler, innermost first: the last thread that it prints."""
    starts = [at for at, line in enumerate(lines) if _SECTION.search(line)]
    if not starts:
        return []
    frames: list[str] = []
    for line in lines[starts[-1] + 1 :]:
        if _FRAME.search(line) is None:
            break
        frames.append(line.strip())
    return frames


def waits(frames: Sequence[str]) -> bool:
    """Whether a rank with this stack stands in a collective, or in a backward pass, which ends in one."""
    found = _FRAME.search(frames[0]) if frames else None
    return found is not None and _COLLECTIVE.search(found[1]) is not None
