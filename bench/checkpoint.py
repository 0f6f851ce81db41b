"""How long a checkpoint holds training up: ours against torch.distributed.checkpoint, on the same state in one run.

`python -m bench.checkpoint [--mib 400] [--rounds 7] [--folder DIR] [--strict]`: two gloo ranks with a sharded state of
`--mib` each. Every way takes its turn in every round; a ratio is the median of the rounds' own ratios. On a busy
machine the processor time of the call (`blocked_cpu`) is the figure to trust.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

_RANKS: Final = 2
_TARGET: Final = 10.0
_HELD: Final = ("blocked_s", "slowed_s")
_OTHERS: Final = ("async_save", "async_save_cached", "save")
_WAYS: Final = ("ours", *_OTHERS)


class Pair:
    """Two ranks that checkpoint in one way."""

    def __init__(self, way: str, mib: int, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._ranks = [self._start(rank, port, way, mib, folder / way) for rank in range(_RANKS)]

    def measure(self, number: int) -> list[dict[str, Any]]:
        """What each rank says of one checkpoint."""
        for rank in self._ranks:
            assert rank.stdin is not None
            print(number, file=rank.stdin, flush=True)
        return [self._heard(rank) for rank in self._ranks]

    def kill(self) -> None:
        """Ends both."""
        for rank in self._ranks:
            rank.kill()
            rank.wait()

    @staticmethod
    def _start(rank: int, port: int, way: str, mib: int, folder: Path) -> "subprocess.Popen[str]":
        place = {
            "RANK": str(rank), "WORLD_SIZE": str(_RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        options = ["--way", way, "--mib", str(mib), "--folder", str(folder)]
        return subprocess.Popen(
            [sys.executable, "-m", "bench.peers.checkpointing", *options],
            env={**os.environ, **place},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def _heard(rank: "subprocess.Popen[str]") -> dict[str, Any]:
        assert rank.stdout is not None
        line = rank.stdout.readline()
        if not line:
            raise SystemExit("a rank has failed; see above")
        told: dict[str, Any] = json.loads(line)
        return told


def measured(mib: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """What every rank said of every checkpoint. The ways take turns; the first two rounds warm up and do not count.

    Each way has processes of its own: what the buffers of one add to a process would slow the fork of the other.
    """
    pairs: dict[str, Pair] = {}
    told: list[dict[str, Any]] = []
    try:
        for way in _WAYS:
            pairs[way] = Pair(way, mib, folder)
        for number in range(-1, rounds + 1):
            for turn in range(len(_WAYS)):
                told += pairs[_WAYS[(number + turn) % len(_WAYS)]].measure(max(number, 0))
    finally:
        for pair in pairs.values():
            pair.kill()
    return told


def report(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures: of each checkpoint that of the slower rank, of each way the median of its rounds."""
    rounds = sorted({each["round"] for each in told if each["round"]})

    def slowest(way: str, number: int, what: str) -> float:
        return float(max(each[what] for each in told if each["way"] == way and each["round"] == number))

    figures: dict[str, Any] = {}
    for way in _WAYS:
        for what in ("blocked_s", "blocked_cpu_s", "slowed_s", "written_s"):
            values = [slowest(way, number, what) for number in rounds]
            figures.setdefault(way, {})[what.replace("_s", "_ms")] = round(1e3 * median(values), 2)
        figures[way]["blocked_ms_worst"] = round(1e3 * max(slowest(way, number, "blocked_s") for number in rounds), 2)
    for way in _OTHERS:
        for what in ("blocked_s", "blocked_cpu_s"):
            ratios = [slowest(way, number, what) / slowest("ours", number, what) for number in rounds]
            figures[f"{way}_over_ours_{what.removesuffix('_s')}"] = round(median(ratios), 2)
        held = [
            sum(slowest(way, number, what) for what in _HELD) / sum(slowest("ours", number, what) for what in _HELD)
            for number in rounds
        ]
        figures[f"{way}_over_ours_blocked_and_slowed"] = round(median(held), 2)
    return figures


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mib", type=int, default=400, help="of state on each rank")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; default: a temporary folder")
    parser.add_argument("--strict", action="store_true", help="fail when the target is missed")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = report(measured(arguments.mib, arguments.rounds, Path(folder)))
    settings = {"ranks": _RANKS, "mib_per_rank": arguments.mib, "rounds": arguments.rounds, "load_before": load}
    print(json.dumps({"settings": settings, **figures, "target": _TARGET}, indent=2))
    if arguments.strict and figures["async_save_over_ours_blocked"] < _TARGET:
        raise SystemExit(f"a checkpoint holds training up for more than 1/{_TARGET:.0f} of dcp.async_save's time")


if __name__ == "__main__":
    main()
