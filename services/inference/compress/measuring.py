"""How fast models are: two of them in one process, in turns, so that whatever else the machine does meets both."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton.golden import Array
from services.inference.compress.judging import Run
from services.inference.compress.samples import Part

BATCH: Final = 32
_ROUNDS: Final = 12
_ROUND_S: Final = 0.05
_FEWEST, _MOST = 4, 400  # calls in a round
_WARM_UP: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Microseconds for one row, median and 99th percentile, and rows in a second in batches of 32."""

    p50_us: float
    p99_us: float
    throughput: float


def race(runs: Mapping[str, Run], part: Part, *, rounds: int = _ROUNDS, round_s: float = _ROUND_S) -> dict[str, Speed]:
    """The speed of each of several models on the same rows, measured in turns."""
    one = part.rows(slice(0, 1)).inputs
    many = _repeated(part, BATCH).inputs
    calls = {name: _calls(run, one, round_s) for name, run in runs.items()}
    passes = {name: max(1, calls[name] // BATCH) for name in runs}
    latencies: dict[str, list[float]] = {name: [] for name in runs}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            latencies[name] += _timed(lambda run=run: run(one), calls[name])  # type: ignore[misc]
            spent = _timed(lambda run=run: run(many), passes[name])  # type: ignore[misc]
            rates[name].append(BATCH * len(spent) / sum(spent))
    return {
        name: Speed(
            p50_us=1e6 * float(np.median(latencies[name])),
            p99_us=1e6 * float(np.quantile(latencies[name], 0.99)),
            throughput=float(np.median(rates[name])),
        )
        for name in runs
    }


def _calls(run: Run, inputs: Mapping[str, Array], round_s: float) -> int:
    usual = float(np.median(_timed(lambda: run(inputs), _WARM_UP)))
    return int(min(max(round_s / max(usual, 1e-7), _FEWEST), _MOST))


def _timed(call: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def _repeated(part: Part, rows: int) -> Part:
    return part.rows(np.arange(rows) % len(part))
