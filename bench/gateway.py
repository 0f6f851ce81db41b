"""What the gateway costs a call: `python -m bench.gateway --json -`, Envoy as configured here against Triton directly.

Three ways to the same Triton: `direct` (plaintext, to Triton itself), `gateway` (TLS, token check, permission, routing
by the message, access log, lineage, 1 % of the calls traced) and, as the control, `bare_envoy` (plaintext, nothing but
a route). They take turns in short rounds; a ratio is the median of the rounds' own ratios.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import gateway_model, serving_load
from bench.gateway_scene import MODEL, Scene, place, scene
from bench.serving_load import Load

_WAYS: Final = ("direct", "gateway", "bare_envoy")
GOALS: Final = {"throughput_ratio": 0.95, "added_p50_ms": 0.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One way in one round; processor time per call by program, in microseconds."""

    load: Load
    cpu_us: dict[str, float]


def measure(
    up: Scene, body: bytes, concurrency: int, seconds: float, rounds: int, cores: Sequence[int]
) -> dict[str, list[Turn]]:
    """Every way in every round, in alternating order. Raises ValueError when an answer was none."""
    turns: dict[str, list[Turn]] = {way: [] for way in _WAYS}
    for number in range(rounds):
        for way in _WAYS if number % 2 else reversed(_WAYS):
            turns[way].append(_turn(up, way, body, concurrency, seconds, cores))
    sizes = {round(turn.load.data_bytes / turn.load.done) for way in _WAYS for turn in turns[way]}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"answers of {sorted(sizes)} bytes: not every call was answered alike")
    return turns


def _turn(up: Scene, way: str, body: bytes, concurrency: int, seconds: float, cores: Sequence[int]) -> Turn:
    who = ("triton",) if way == "direct" else ("triton", way)
    before: dict[str, float] = {}

    def spent_s() -> float:
        nonlocal before
        now = {name: up.cpu_s(name) for name in who}
        found = now["triton"] - before.get("triton", 0.0)
        before = {name: now[name] - before.get(name, 0.0) for name in who}
        return found

    load = serving_load.load(up.call(way, body), concurrency=concurrency, seconds=seconds, cores=cores, spent_s=spent_s)
    if load.failed:
        raise ValueError(f"{way}: {load.failed} of {load.done} calls failed")
    return Turn(load=load, cpu_us={name: 1e6 * before[name] / load.done for name in who})


def summary(turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """The medians of one payload at one concurrency, against `direct` of the same round."""
    found: dict[str, Any] = {}
    for way in _WAYS:
        pairs = list(zip(turns[way], turns["direct"], strict=True))
        found[way] = {
            "rate": _median(turn.load.rate for turn in turns[way]),
            "p50_ms": _median(turn.load.p50_us / 1e3 for turn in turns[way]),
            "p99_ms": _median(turn.load.p99_us / 1e3 for turn in turns[way]),
            "cpu_us_per_call": {
                name: _median(turn.cpu_us[name] for turn in turns[way]) for name in turns[way][0].cpu_us
            },
        }
        if way != "direct":
            found[way]["throughput_ratio"] = _median(turn.load.rate / base.load.rate for turn, base in pairs)
            found[way]["added_p50_ms"] = _median((turn.load.p50_us - base.load.p50_us) / 1e3 for turn, base in pairs)
            found[way]["added_p99_ms"] = _median((turn.load.p99_us - base.load.p99_us) / 1e3 for turn, base in pairs)
    return found


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 4)


async def run(
    kind: str,
    payloads_kb: Sequence[int],
    concurrencies: Sequence[int],
    seconds: float,
    rounds: int,
    *,
    is_shared: bool,
) -> dict[str, Any]:
    """All payloads and concurrencies with one model."""
    rows = []
    async with scene(kind) as up:
        cores = place(up, is_shared=is_shared)
        for payload in payloads_kb:
            body = gateway_model.request(MODEL, payload)
            for concurrency in concurrencies:
                turns = await asyncio.to_thread(measure, up, body, concurrency, seconds, rounds, cores)
                rows.append({"payload_kb": payload, "concurrency": concurrency, **summary(turns)})
                ours = rows[-1]["gateway"]
                print(
                    f"{kind} {payload} KB c{concurrency}: {ours['throughput_ratio']:.3f} of direct,"
                    f" +{ours['added_p50_ms']:.3f} ms p50",
                    file=sys.stderr,
                )
    throughput = [row["gateway"]["throughput_ratio"] for row in rows if row["concurrency"] > 1]
    latency = [row["gateway"]["added_p50_ms"] for row in rows if row["concurrency"] == 1]
    return {
        "model": kind,
        "throughput_ratio": min(throughput, default=None),
        "added_p50_ms": max(latency, default=None),
        "rows": rows,
    }


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="cnn", help="cnn (a small network, the goals'), linear (next to no work)")
    parser.add_argument("--payloads", default="1,100", help="KB of images in a request: 1 to 128")
    parser.add_argument("--concurrency", default="1,16,64", help="calls in flight")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--shared-cores", action="store_true", help="Triton, gateway and load on all cores; else Triton has its own"
    )
    parser.add_argument("--json", default="-", help="the file for the results; - = standard output")
    parser.add_argument("--strict", action="store_true", help="end with 1 when a goal is missed")
    given = parser.parse_args()
    if problem := serving_load.missing():
        parser.error(problem)
    kinds = given.models.split(",")
    if unknown := set(kinds) - set(gateway_model.KINDS):
        parser.error(f"--models: there is no {min(unknown)}; there are {', '.join(gateway_model.KINDS)}")
    numbers = [[int(each) for each in text.split(",")] for text in (given.payloads, given.concurrency)]
    payloads, concurrencies = numbers
    runs = [
        asyncio.run(run(kind, payloads, concurrencies, given.seconds, given.rounds, is_shared=given.shared_cores))
        for kind in kinds
    ]
    found = {
        "throughput_ratio": runs[0]["throughput_ratio"],
        "added_p50_ms": runs[0]["added_p50_ms"],
        "goals": GOALS,
        "cores": os.cpu_count(),
        "cores_are_shared": given.shared_cores,
        "load_average": os.getloadavg()[0],
        "runs": runs,
    }
    text = json.dumps(found, indent=1)
    if given.json == "-":
        print(text)
    else:
        Path(given.json).write_text(text + "\n")
    ratio, added_ms = found["throughput_ratio"], found["added_p50_ms"]  # None where nothing was asked for that shows it
    is_missed = (ratio is not None and ratio < GOALS["throughput_ratio"]) or (
        added_ms is not None and added_ms > GOALS["added_p50_ms"]
    )
    sys.exit(1 if given.strict and is_missed else 0)


if __name__ == "__main__":
    main()
