"""Load on a server by h2load (Debian: nghttp2-client), over HTTP/2 or HTTP/1.1, and what the answers were."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

_TOTALS: Final = re.compile(r"requests: .*?(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_RATE: Final = re.compile(r"finished in .*?, ([\d.]+) req/s")
_DATA: Final = re.compile(r"\((\d+)\) data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, the same every time."""

    url: str
    body: bytes
    headers: tuple[tuple[str, str], ...]
    is_http1: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a load showed; latencies are of single calls, in microseconds."""

    rate: float
    done: int
    failed: int
    data_bytes: int
    """Of the bodies of all answers: h2load does not look at a gRPC status, but a refused call has no body."""
    p50_us: float
    p99_us: float
    cpu_us_per_call: float = 0.0
    """Of the server, with everything that it runs."""

    def are_answers(self, body_bytes: int, slack: float = 0.0) -> bool:
        """Whether every call got a body of the size that a right answer has, within `slack` of it."""
        return not self.failed and abs(self.data_bytes - self.done * body_bytes) <= slack * self.done * body_bytes


def missing() -> str:
    """Why there can be no load; empty if there can."""
    return "" if shutil.which("h2load") else "h2load is not installed (Debian: apt install nghttp2-client)"


def load(call: Call, *, concurrency: int, seconds: float, cores: Sequence[int], spent_s: Callable[[], float]) -> Load:
    """Keeps `concurrency` calls in flight for about `seconds`, from the given cores.

    A first second finds out how many calls that will be, and is not counted: a fixed number of calls all end, so that
    every byte of every answer is accounted for. `spent_s` tells the server's processor time.
    """
    rough = _ran(call, concurrency, cores, ["--duration=1", "--warm-up-time=1"])
    before = spent_s()
    seen = _ran(call, concurrency, cores, [f"--requests={max(round(rough.rate * seconds), concurrency)}"])
    return replace(seen, cpu_us_per_call=1e6 * (spent_s() - before) / seen.done)


def _ran(call: Call, concurrency: int, cores: Sequence[int], length: Sequence[str]) -> Load:
    connections, streams = shape(concurrency, call.is_http1)
    with tempfile.TemporaryDirectory(prefix="lepton-load-") as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(call.body)
        command = [
            *("taskset", "--cpu-list", ",".join(map(str, cores)), "h2load", "--threads=1", *length),
            *(f"--clients={connections}", f"--max-concurrent-streams={streams}"),
            *(f"--data={body}", f"--log-file={log}", "--window-bits=24", "--connection-window-bits=24"),
            *(["--h1"] if call.is_http1 else []),
            *(f"--header={name}:{value}" for name, value in call.headers),
            call.url,
        ]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        latencies = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    return _parsed(ran.stdout, latencies)


def shape(concurrency: int, is_http1: bool) -> tuple[int, int]:
    """Connections, and calls at once on each: HTTP/1.1 has one; HTTP/2 about as many as there are connections."""
    if is_http1:
        return concurrency, 1
    connections = max(each for each in range(1, concurrency + 1) if each * each <= concurrency)
    return connections, concurrency // connections


def _parsed(said: str, latencies: Sequence[int]) -> Load:
    totals, rate, data = _TOTALS.search(said), _RATE.search(said), _DATA.search(said)
    if totals is None or rate is None or data is None:
        raise ValueError(f"h2load said something else: {said[-500:]}")
    done, succeeded, *_ = map(int, totals.groups())
    return Load(
        rate=float(rate[1]),
        done=done,
        failed=done - succeeded + int(totals[4]) + int(totals[5]),
        data_bytes=int(data[1]),
        p50_us=_percentile(latencies, 0.50),
        p99_us=_percentile(latencies, 0.99),
    )


def _percentile(ordered: Sequence[int], share: float) -> float:
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))]) if ordered else float("nan")
